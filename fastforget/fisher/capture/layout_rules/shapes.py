"""Functions that give a tensor another shape, or another order of its dimensions."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from fastforget.fisher.capture.call import Call, LayoutRule
from fastforget.fisher.capture.layout import Layout

__all__ = ["RULES", "after_permutation", "after_reshape"]


def after_reshape(call: Call) -> Layout | None:
    """Row-major reshapes: in the flat order the samples keep their period."""
    value = call.argument(0, "input")  # the second tensor of `view_as` gives a shape only
    layout = call.state_of(value)
    if not isinstance(layout, Layout) or call.result.numel() != value.numel() or call.result.dtype != value.dtype:
        return None
    period = layout.inner * math.prod(value.shape[layout.dim + 1 :])
    for dim, size in enumerate(call.result.shape):
        stride = math.prod(call.result.shape[dim + 1 :])
        if stride and period % stride == 0 and size % (call.samples * (period // stride)) == 0:
            return Layout(dim, period // stride)
    return None


def after_permutation(call: Call) -> Layout | None:
    """Permutations: the sample dimension goes where it goes in a tensor of distinct sizes."""
    value, layout = call.activations()[0]
    if not call.args or call.args[0] is not value:
        return None
    try:
        order = _permuted_dims(call.function, value.dim(), call.args[1:], tuple(call.kwargs.items()))
    except TypeError:  # an argument that cannot be hashed, such as a list of dimensions
        order = _permuted_dims.__wrapped__(call.function, value.dim(), call.args[1:], tuple(call.kwargs.items()))
    return Layout(order.index(layout.dim), layout.inner)


@functools.lru_cache(maxsize=256)
def _permuted_dims(
    function: Callable[..., Any], dims: int, args: Sequence[Any], kwargs: Sequence[Any]
) -> tuple[int, ...]:
    """Which dimension of its argument each dimension of a permutation's result is."""
    probe = torch.empty([dim + 2 for dim in range(dims)], device="meta")
    return tuple(size - 2 for size in function(probe, *args, **dict(kwargs)).shape)


RULES: dict[LayoutRule, str] = {
    after_reshape: "view reshape flatten unflatten squeeze unsqueeze view_as reshape_as ravel",
    after_permutation: "permute transpose movedim moveaxis swapaxes swapdims t adjoint T mT",
}
