"""Functions that take parts of tensors, put tensors together, or write into them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastforget.fisher.capture.call import Call, LayoutRule, dims_of, tensors_in
from fastforget.fisher.capture.layout import Layout

__all__ = [
    "RULES",
    "after_concatenation",
    "after_gathering",
    "after_index",
    "after_index_assignment",
    "after_narrowing",
    "after_padding",
    "after_selection",
]


def after_selection(call: Call) -> Layout | None:
    """``unbind`` and ``select``: one dimension disappears, which must not be the samples'."""
    value, layout = call.activations()[0]
    dims = dims_of(call.argument(1, "dim", default=0), value.dim())
    if not dims or layout.dim in dims:
        return None
    return Layout(layout.dim - (dims[0] < layout.dim), layout.inner)


def after_narrowing(call: Call) -> Layout | None:
    """``chunk``, ``split``, ``narrow``, ``index_select``: a part of another dimension than the samples'."""
    value, layout = call.activations()[0]
    if value is not call.argument(0, "input"):  # the samples are in the index
        return None
    position = 1 if call.name in ("narrow", "index_select") else 2
    dims = dims_of(call.argument(position, "dim", default=0), value.dim())
    return layout if dims and layout.dim not in dims and len(call.activations()) == 1 else None


def after_padding(call: Call) -> Layout | None:
    """``pad``: it lengthens the last dimensions, of which the samples' must not be one."""
    value, layout = call.activations()[0]
    padded = len(call.argument(1, "pad")) // 2
    return layout if layout.dim < value.dim() - padded else None


def after_concatenation(call: Call) -> Layout | None:
    """``cat`` and ``stack`` of tensors of one layout, along another dimension than the samples'."""
    tensors = call.argument(0, "tensors")
    if call.name != "stack":  # `cat` takes an empty vector beside anything, as caches begin with
        tensors = [tensor for tensor in tensors if tensor.shape != (0,)]
    layouts = {layout for _, layout in call.activations()}
    dims = dims_of(call.argument(1, "dim", "axis", default=0), call.result.dim())
    if len(layouts) != 1 or not dims or any(tensor.dim() != tensors[0].dim() for tensor in tensors):
        return None
    (layout,) = layouts
    if call.name == "stack":
        return Layout(layout.dim + (dims[0] <= layout.dim), layout.inner)
    return layout if layout.dim not in dims else None


def after_gathering(call: Call) -> Layout | None:
    """``gather``: entry by entry along all dimensions but one."""
    value, index = call.argument(0, "input"), call.argument(2, "index")
    layouts = {layout for _, layout in call.activations()}
    dims = dims_of(call.argument(1, "dim"), value.dim())
    if len(layouts) != 1 or not dims or not isinstance(index, Tensor):
        return None
    (layout,) = layouts
    return layout if layout.dim not in dims and value.shape[layout.dim] == index.shape[layout.dim] else None


def _takes_one_dim_or_none(item: Any) -> bool:
    """Whether an item of an index takes one dimension, or none (None, an ellipsis): no mask, no nested list."""
    if isinstance(item, Tensor):
        return item.dtype not in (torch.bool, torch.uint8)
    if isinstance(item, list):
        return all(type(entry) is int for entry in item)
    return item is None or item is Ellipsis or type(item) is int or isinstance(item, slice)


def after_index(call: Call) -> Layout | None:
    """``x[...]`` with the sample dimension taken whole, and at most one index tensor, the same for every sample."""
    value, index = call.args[0], call.args[1]
    layout = call.state_of(value)
    index = index if isinstance(index, tuple) else (index,)
    if not isinstance(layout, Layout) or len(call.activations()) != 1:
        return None
    if not all(map(_takes_one_dim_or_none, index)):
        return None
    taken = sum(item is not None and item is not Ellipsis for item in index)
    arrays = [item for item in index if isinstance(item, (Tensor, list))]
    # An integer beside an index array counts as another one, and numpy's rules may then move dimensions.
    if len(arrays) > 1 or (arrays and any(isinstance(item, int) for item in index)):
        return None
    source = target = 0  # dimensions of the value and of the result that the items so far account for
    for item in index if any(item is Ellipsis for item in index) else (*index, Ellipsis):
        if item is Ellipsis:
            skipped = value.dim() - taken
            if source <= layout.dim < source + skipped:
                return Layout(target + layout.dim - source, layout.inner)
            source, target = source + skipped, target + skipped
        elif item is None:
            target += 1
        else:
            if source == layout.dim:
                whole = isinstance(item, slice) and item == slice(None)
                return Layout(target, layout.inner) if whole else None
            source += 1
            target += item.dim() if isinstance(item, Tensor) else int(not isinstance(item, int))
    return None


def after_index_assignment(call: Call) -> Layout | None:
    """``x[...] = value``: the value must have the layout of the place that it is written to."""
    target, index, value = call.args
    layout, written = call.state_of(target), call.state_of(value)
    if not isinstance(layout, Layout) or any(isinstance(call.state_of(i), Layout) for i in tensors_in(index)):
        return None
    place = target[index]
    tensors = [(tensor, call.state_of(tensor)) for tensor in tensors_in(target, index)]
    expected = after_index(call._replace(args=(target, index), kwargs={}, result=place, tensors=tensors))
    if not isinstance(expected, Layout) or written is None:
        return layout if isinstance(expected, Layout) else None
    dim = place.dim() - (value.dim() - written.dim) if isinstance(written, Layout) else -1
    return layout if expected == Layout(dim, getattr(written, "inner", 0)) else None


RULES: dict[LayoutRule, str] = {
    after_selection: "unbind select",
    after_narrowing: "chunk split split_with_sizes tensor_split narrow index_select",
    after_padding: "pad",
    after_gathering: "gather",
    after_concatenation: "cat concat concatenate stack",
    after_index: "__getitem__",
    after_index_assignment: "__setitem__",
}
