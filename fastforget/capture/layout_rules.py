"""Where the samples are in a function's result, one rule per kind of function.

A rule is given the name of the function and the call, and returns the layout of the result, or None where samples may
have been mixed, or where nobody knows: never a guess.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastforget.capture.layout import Call, Layout, State, tensors_in

__all__ = [
    "aligned",
    "along",
    "assigned",
    "concatenated",
    "constant",
    "einsum",
    "embedded",
    "independent",
    "indexed",
    "multiplied",
    "narrowed",
    "padded",
    "permuted",
    "reduced",
    "reshaped",
    "selected",
    "trailing",
]


def constant(_name: str, _call: Call) -> State:
    """Functions whose result takes shape or type from a tensor, but no values."""
    return None


def aligned(_name: str, call: Call) -> State:
    """Broadcasting from the right: element-wise functions, expand, repeat."""
    found: State = None
    for value, layout in call.tracked():
        dim = call.result.dim() - (value.dim() - layout.dim)
        here = Layout(dim, layout.inner)
        if dim < 0 or call.result.shape[dim] != value.shape[layout.dim] or found not in (None, here):
            return None
        found = here
    return found


def reshaped(_name: str, call: Call) -> State:
    """Row-major reshapes: the samples' period in the flat order stays what it was."""
    value = call.argument(0, "input")  # view_as has a second tensor, of which only the shape counts
    layout = call.read(value)
    if not isinstance(layout, Layout) or call.result.numel() != value.numel() or call.result.dtype != value.dtype:
        return None
    period = layout.inner * math.prod(value.shape[layout.dim + 1 :])
    for dim, size in enumerate(call.result.shape):
        suffix = math.prod(call.result.shape[dim + 1 :])
        if suffix and period % suffix == 0 and size % (call.samples * (period // suffix)) == 0:
            return Layout(dim, period // suffix)
    return None


def permuted(_name: str, call: Call) -> State:
    """Permutations: see where the sample dimension goes by permuting a tensor of distinct sizes."""
    value, layout = call.tracked()[0]
    if not call.args or call.args[0] is not value:
        return None
    try:
        order = _order_of(call.function, value.dim(), call.args[1:], tuple(call.kwargs.items()))
    except TypeError:  # an argument that cannot be hashed, such as a list of dimensions
        order = _order_of.__wrapped__(call.function, value.dim(), call.args[1:], tuple(call.kwargs.items()))
    return Layout(order.index(layout.dim), layout.inner)


@functools.lru_cache(maxsize=256)
def _order_of(function: Callable[..., Any], dims: int, args: Sequence[Any], kwargs: Sequence[Any]) -> tuple[int, ...]:
    """Which dimension of its argument each dimension of a permutation's result is."""
    probe = torch.empty([dim + 2 for dim in range(dims)], device="meta")
    return tuple(size - 2 for size in function(probe, *args, **dict(kwargs)).shape)


def _dims(value: Any, ndim: int) -> list[int] | None:
    if value is None:
        return None
    if isinstance(value, int):
        value = (value,)
    return [dim % ndim for dim in value] if all(isinstance(dim, int) for dim in value) else None


def reduced(name: str, call: Call) -> State:
    """Reductions over other dimensions than the samples'."""
    value, layout = call.tracked()[0]
    rest = call.args[1:]
    # x.sum(1, 2) and x.sum((1, 2)) are the same; p of norm comes before its dim
    given = call.argument(2 if name == "norm" else 1, "dim", "axis")
    if name not in ("norm",) and len(rest) > 1 and all(type(dim) is int for dim in rest):
        given = tuple(rest)
    dims = _dims(given, value.dim())
    if not dims or layout.dim in dims or len(call.tracked()) > 1:
        return None
    if call.result.dim() == value.dim():
        return layout
    return Layout(layout.dim - sum(dim < layout.dim for dim in dims), layout.inner)


def along(name: str, call: Call) -> State:
    """Functions that mix along a dimension and keep the shape: softmax, cumsum, flip, roll."""
    value, layout = call.tracked()[0]
    given = call.argument(2 if name == "roll" else 1, "dim", "dims")
    dims = _dims(call.args[1:] if name == "flip" and isinstance(given, int) else given, value.dim())
    return layout if dims and layout.dim not in dims and len(call.tracked()) == 1 else None


def selected(_name: str, call: Call) -> State:
    """Unbind and select: one dimension, not the samples', disappears."""
    value, layout = call.tracked()[0]
    dims = _dims(call.argument(1, "dim", default=0), value.dim())
    if not dims or layout.dim in dims:
        return None
    return Layout(layout.dim - (dims[0] < layout.dim), layout.inner)


def narrowed(_name: str, call: Call) -> State:
    """chunk, split, narrow, index_select along another dimension than the samples'."""
    value, layout = call.tracked()[0]
    position = 1 if _name in ("narrow", "index_select") else 2
    dims = _dims(call.argument(position, "dim", default=0), value.dim())
    return layout if dims and layout.dim not in dims and len(call.tracked()) == 1 else None


def padded(_name: str, call: Call) -> State:
    """Padding of the last dimensions, not the samples'."""
    value, layout = call.tracked()[0]
    reach = len(call.argument(1, "pad")) // 2
    return layout if layout.dim < value.dim() - reach else None


def concatenated(_name: str, call: Call) -> State:
    """Cat and stack of tensors laid out alike, along another dimension than the samples'."""
    tensors = call.argument(0, "tensors")
    layouts = {layout for _, layout in call.tracked()}
    dims = _dims(call.argument(1, "dim", "axis", default=0), call.result.dim())
    if len(layouts) != 1 or not dims or any(tensor.dim() != tensors[0].dim() for tensor in tensors):
        return None
    (layout,) = layouts
    if _name == "stack":
        return Layout(layout.dim + (dims[0] <= layout.dim), layout.inner)
    return layout if layout.dim not in dims else None


def _plain_index(item: Any) -> bool:
    """Whether an index consumes one dimension, or none if it is None or an ellipsis: no masks, no nested lists."""
    if isinstance(item, Tensor):
        return item.dtype not in (torch.bool, torch.uint8)
    if isinstance(item, list):
        return all(type(entry) is int for entry in item)
    return item is None or item is Ellipsis or type(item) is int or isinstance(item, slice)


def indexed(_name: str, call: Call) -> State:
    """x[...] with the sample dimension taken whole; at most one index tensor, the same for all samples."""
    value, index = call.args[0], call.args[1]
    layout = call.read(value)
    index = index if isinstance(index, tuple) else (index,)
    if not isinstance(layout, Layout) or len(call.tracked()) != 1:
        return None
    if not all(_plain_index(item) for item in index):
        return None
    consumed = sum(item is not None and item is not Ellipsis for item in index)
    arrays = [item for item in index if isinstance(item, (Tensor, list))]
    # an integer beside an index array counts as one, and numpy's rules then may move dimensions
    if len(arrays) > 1 or (arrays and any(isinstance(item, int) for item in index)):
        return None
    source = target = 0
    for item in index if any(item is Ellipsis for item in index) else (*index, Ellipsis):
        if item is Ellipsis:
            skipped = value.dim() - consumed
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


def assigned(_name: str, call: Call) -> State:
    """x[...] = value: what is written must be laid out like the place it is written to."""
    target, index, value = call.args
    layout, written = call.read(target), call.read(value)
    if not isinstance(layout, Layout) or any(isinstance(call.read(i), Layout) for i in tensors_in(index)):
        return None
    place = target[index]
    tensors = [(value, call.read(value)) for value in tensors_in(target, index)]
    view = Call((target, index), {}, place, tensors, call.read, call.samples, call.function)
    expected = indexed("__getitem__", view)
    if not isinstance(expected, Layout) or written is None:
        return layout if isinstance(expected, Layout) else None
    dim = place.dim() - (value.dim() - written.dim) if isinstance(written, Layout) else -1
    return layout if expected == Layout(dim, getattr(written, "inner", 0)) else None


def independent(name: str, call: Call) -> State:
    """Functions on [N, C, *space] that treat the entries of dimension 0 independently."""
    value = call.argument(0, "input")
    layout = call.read(value)
    rank = {"1d": 3, "2d": 4, "3d": 5}.get(name[-2:])
    if not isinstance(layout, Layout) or layout.dim != 0 or len(call.tracked()) != 1:
        return None
    return layout if rank in (None, value.dim()) else None


def trailing(name: str, call: Call) -> State:
    """Functions that mix the last dimensions only: linear, layer_norm, rms_norm, attention."""
    value, layout = call.tracked()[0]
    if name == "scaled_dot_product_attention":
        if any(state != layout or other.dim() != value.dim() for other, state in call.tracked()):
            return None
    elif len(call.tracked()) > 1 or value is not call.argument(0, "input"):
        return None
    mixed = {"linear": 1, "scaled_dot_product_attention": 2}.get(name)
    if mixed is None:
        mixed = len(call.argument(1, "normalized_shape"))
    kept = layout.dim < value.dim() - mixed and call.result.shape[layout.dim] == value.shape[layout.dim]
    return layout if kept else None


def embedded(_name: str, call: Call) -> State:
    """Rows looked up by tokens, or one-hot: the tokens' dimensions come first."""
    return call.read(call.argument(0, "input")) if len(call.tracked()) == 1 else None


def multiplied(name: str, call: Call) -> State:
    """matmul, bmm, mm, addmm, baddbmm: the contracted dimensions must not hold the samples."""
    first = 1 if name in ("addmm", "baddbmm") else 0
    if name in ("addmm", "baddbmm") and call.read(call.args[0]) is not None:
        return None
    a, b = call.argument(first, "input", "mat1", "batch1"), call.argument(first + 1, "mat2", "other", "batch2")
    if min(a.dim(), b.dim()) < 2:
        return None
    found: State = None
    for value, allowed_row in ((a, 2), (b, 1)):
        layout = call.read(value)
        if not isinstance(layout, Layout):
            continue
        right = value.dim() - layout.dim
        if right < 3 and right != allowed_row:
            return None
        here = Layout(call.result.dim() - right, layout.inner)
        if found not in (None, here):
            return None
        found = here
    return found


def einsum(_name: str, call: Call) -> State:
    """The letter of the samples must stay in the output."""
    equation, *operands = call.args
    if not isinstance(equation, str) or "." in equation or "->" not in equation:
        return None
    if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
        operands = list(operands[0])
    inputs, output = equation.replace(" ", "").split("->")
    found = set()
    for letters, operand in zip(inputs.split(","), operands, strict=True):
        layout = call.read(operand)
        if isinstance(layout, Layout):
            found.add((letters[layout.dim], layout.inner))
    if len(found) != 1:
        return None
    ((letter, inner),) = found
    return Layout(output.index(letter), inner) if letter in output else None
