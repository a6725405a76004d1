"""Follows rows that belong to samples in no order.

A mixture of experts takes the tokens of all samples apart, sorts them by expert, and puts them back. Which tokens go
where depends on all samples, but each row is still that of one sample: the one that it was taken from. Only that is
needed to tell the gradients of the call apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fastforget.fisher.capture.call import Call, LayoutRule
from fastforget.fisher.capture.layout import Layout, LayoutState, Rows, Unknown

__all__ = ["follow_rows", "samples_of_rows"]


def follow_rows(call: Call, rule: LayoutRule | None) -> LayoutState:
    """Return where the rows of a call's result belong, or None where that is not known.

    Args:
        call: A call; what it takes rows by may be `Unknown`.
        rule: That of the function for layouts, if it has one.
    """
    found: LayoutState = None
    if call.name == "__getitem__":
        found = _taken(call, call.args[0], call.args[1])
    elif call.name == "index_select" and call.argument(1, "dim") == 0:
        found = _taken(call, call.argument(0, "input"), call.argument(2, "index"))
    elif call.name == "__setitem__":
        found = _put(call, *call.args)
    elif call.name in ("index_add", "index_add_") and call.argument(1, "dim") == 0:
        found = _put(call, call.argument(0, "input"), call.argument(2, "index"), call.argument(3, "source"))
    return _kept(call, rule) if found is None and rule is not None else found


def samples_of_rows(state: Layout | Rows, rows: int, samples: int, device: torch.device) -> Tensor:
    """Return the sample of each row along dimension 0, int64 [rows]."""
    if isinstance(state, Rows):
        return state.samples
    return torch.arange(rows, device=device) // state.inner % samples


def _taken(call: Call, value: Any, index: Any) -> Layout | Rows | None:
    """``x[index]``: rows of the samples that they are taken from, whatever chose them."""
    owners = _owners(call.state_of(value), _places(index, value.shape), call.samples)
    if owners is None:
        return None
    inner = len(owners) // call.samples
    if inner and torch.equal(owners, torch.arange(len(owners), device=owners.device) // inner):
        return Layout(0, inner)  # they are in order again
    return Rows(owners)


def _put(call: Call, target: Any, index: Any, value: Any) -> LayoutState:
    """Rows written, or added, to those of their own samples; or one number to whatever rows."""
    places, given = _places(index, target.shape), call.state_of(target)
    if not places:
        return None
    if not isinstance(value, Tensor) or (value.dim() == 0 and call.state_of(value) is None):
        return given if isinstance(given, (Layout, Rows)) else None
    source = _owners(call.state_of(value), {0: torch.arange(len(value), device=value.device)}, call.samples)
    if source is None or value.shape[:1] != places[0].shape:
        return None
    # What is the same for every sample becomes what holds them, where they fit.
    fitting = [Layout(dim, target.shape[dim] // call.samples) for dim in places if target.shape[dim] >= call.samples]
    for state in fitting if given is None else [given]:
        owners = _owners(state, places, call.samples)
        if owners is not None and torch.equal(owners, source):
            return state
    return None


def _owners(state: LayoutState, places: Mapping[int, Tensor], samples: int) -> Tensor | None:
    """Return whose the rows at some places are, int64 [S]; None where the places do not say which samples."""
    if isinstance(state, Rows) and 0 in places:
        return state.samples[places[0]]
    if not isinstance(state, Layout) or state.dim not in places:
        return None
    return places[state.dim] // state.inner % samples


def _kept(call: Call, rule: LayoutRule) -> Rows | None:
    """Other functions on rows of the same samples: each row is to them what a sample is to the function's rule."""
    found = [state for _, state in call.tensors if isinstance(state, Rows)]
    if not found or any(isinstance(state, (Layout, Unknown)) for _, state in call.tensors):
        return None
    owners, rows = found[0].samples, len(found[0].samples)
    if any(not torch.equal(other.samples, owners) for other in found[1:]):
        return None
    # A constant that differs from row to row belongs to places, and which row is where depends on other samples.
    if any(state is None and value.shape[:1] == (rows,) and rows > 1 for value, state in call.tensors):
        return None
    states = [(value, Layout(0) if isinstance(state, Rows) else state) for value, state in call.tensors]
    known = {id(value): state for value, state in states}
    layout = rule(call._replace(tensors=states, state_of=lambda value: known.get(id(value)), samples=rows))
    if layout is None or layout.dim != 0 or len(call.result) != rows * layout.inner:
        return None
    return Rows(owners.repeat_interleave(layout.inner))


def _places(index: Any, shape: Sequence[int]) -> dict[int, Tensor]:
    """Return which rows an index takes, by dimension that it chooses places of, each int64 [S].

    The rows then lie along dimension 0 of what is taken: a mask of the leading dimensions, or a vector, beside which
    others may follow, as may slices and new dimensions. Empty if the index takes parts in another way.
    """
    items = index if isinstance(index, tuple) else (index,)
    first = items[0] if items else None
    if isinstance(first, Tensor) and first.dtype == torch.bool:
        fits = len(items) == 1 and 0 < first.dim() <= len(shape) and first.shape == shape[: first.dim()]
        return dict(enumerate(first.nonzero(as_tuple=True))) if fits else {}
    vectors: dict[int, Tensor] = {}
    dim = 0
    for item in items:
        if isinstance(item, Tensor) and item.dim() == 1 and dim < len(shape):
            vectors[dim] = item
        elif isinstance(item, Tensor) or not (item is None or item is Ellipsis or isinstance(item, slice)):
            return {}
        dim += len(shape) if item is Ellipsis else int(item is not None)
    integers = (torch.int32, torch.int64)
    if 0 not in vectors or any(v.dtype not in integers or v.shape != vectors[0].shape for v in vectors.values()):
        return {}
    return {dim: vector.long() % max(shape[dim], 1) for dim, vector in vectors.items()}
