"""Perturbation: add to selected elements of parameters, write them, put them back."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fastforget.ops.library import check_not_empty, operators, register_fake

__all__ = ["perturb", "perturb_undo", "perturb_write"]


def perturb(parameters: Sequence[Tensor], directions: Sequence[Tensor], mask: Tensor, k: int, alpha: float) -> Tensor:
    """Add ``alpha * directions`` to the selected elements of the parameters, in place, and return their old values.

    Args:
        parameters: L contiguous tensors of one dtype and the shapes of the scores, changed in place.
        directions: L contiguous float32 or float64 tensors of these shapes.
        mask: From `select`.
        k: As given to `select`. A CUDA device does not count them: if the mask holds more elements, the first k
            change; if it holds fewer, the end of the result is undefined.
        alpha: The step.

    Returns:
        The old values of the selected elements, [k], in (tensor, element) order.
    """
    check_not_empty("parameters", parameters)
    old: Tensor = operators.perturb(list(parameters), list(directions), mask, k, alpha)
    return old


def perturb_undo(parameters: Sequence[Tensor], mask: Tensor, old: Tensor) -> None:
    """Put back the values that `perturb` returned for this mask; on a CUDA device at most as many as ``old`` has."""
    operators.perturb_undo(list(parameters), mask, old)


def perturb_write(parameters: Sequence[Tensor], indices: Tensor, counts: Tensor, values: Tensor) -> None:
    """Write values at indices within each of L contiguous parameters.

    A CUDA device ignores indices out of range, values beyond the counts, and counts below zero or beyond the end of
    the values. If an index comes several times, any one of its values stays.

    Args:
        parameters: L contiguous tensors of one dtype, changed in place.
        indices: int32 or int64 [K].
        counts: int64 [L], how many of them belong to each tensor, in order.
        values: [K], dtype of the parameters.
    """
    operators.perturb_write(list(parameters), indices, counts, values)


def _fake_perturb(parameters: list[Tensor], directions: list[Tensor], mask: Tensor, k: int, alpha: float) -> Tensor:
    return parameters[0].new_empty((k,))


def _fake_in_place(*_args: object) -> None:
    """Return nothing: results are written in place."""


register_fake("perturb", _fake_perturb)
register_fake("perturb_undo", _fake_in_place)
register_fake("perturb_write", _fake_in_place)
