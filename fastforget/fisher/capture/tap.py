"""Taps: what hands out the gradient that arrives at an activation in backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["Deliver", "tap"]

Deliver = Callable[[Tensor | None], None]


class _Tap(torch.autograd.Function):
    """Identity on ``output``, which may be a view or have no gradient yet; its backward hands it to ``deliver``."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, deliver: Deliver, fresh: bool, _leaf: Tensor) -> Tensor:
        ctx.deliver = deliver
        if fresh and output._is_view():  # noqa: SLF001 - nothing public says it
            # Marked dirty, a view makes autograd copy the gradient three times (CopySlices). Nobody else has what it
            # is a view of, so a tensor of its own on the same memory does as well.
            return output.data
        ctx.mark_dirty(output)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        ctx.deliver(grads[0])
        return grads[0], None, None, None


def tap(output: Tensor, deliver: Deliver, leaf: Tensor, *, fresh: bool, surely_reached: bool) -> Tensor:
    """Have the gradient that arrives at a function's output handed to ``deliver``.

    Args:
        output: What the function returned, on the autograd graph.
        deliver: Is given the gradient, or None.
        leaf: A parameter that requires a gradient; backward comes to the tap because of it.
        fresh: Neither the caller nor autograd keeps the memory of the output, as with the view of a matrix that
            `F.linear` returns.
        surely_reached: Backward comes to the node of the output, if it has one, also without a tap.

    Returns:
        The output to hand on in its place.
    """
    hooked = _hookable(output, fresh=fresh) if surely_reached else None
    if hooked is not None and hooked.grad_fn is not None:  # a hook is cheaper than a node of its own
        hooked.grad_fn.register_prehook(lambda grads, place=hooked.output_nr: deliver(grads[place]))
        return output
    tapped = _Tap.apply(output, deliver, fresh, leaf)  # type: ignore[no-untyped-call]
    assert isinstance(tapped, Tensor)  # noqa: S101 - for the type checker
    return tapped


def _hookable(output: Tensor, *, fresh: bool) -> Tensor | None:
    """Return the tensor whose node in the graph stays that of the output's values, or None."""
    if not output._is_view():  # noqa: SLF001 - nothing public says it
        return output
    # Written to later, a view gets another node; the matrix that a fresh one is a view of keeps its own.
    base = output._base  # noqa: SLF001
    return base if fresh and base is not None and base.numel() == output.numel() else None
