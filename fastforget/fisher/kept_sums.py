"""Changes of a sum that its owner keeps: always in its own memory, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor

from fastforget.fisher.diagonal import FACTS, FisherDiagonal, clone

__all__ = ["replace_sum", "restored_on_error"]


def replace_sum(
    diagonal: FisherDiagonal, values: Mapping[str, Tensor], losses: Tensor, model: str, *, removed: int
) -> None:
    """Make a sum one over fewer samples, in its own memory; their gradients are not known, so it loses its own.

    Args:
        diagonal: The sum, every sample of weight 1.
        values: Its new values, by name.
        losses: Of the samples that are left.
        model: Fingerprint of the model that it is taken for from now on.
        removed: How many samples it loses.
    """
    for name, value in values.items():
        diagonal[name].copy_(value)
    diagonal.losses, diagonal.model, diagonal.gradient = losses, model, None
    diagonal.samples -= removed
    diagonal.weight = diagonal.weight - removed


@contextmanager
def restored_on_error(diagonal: FisherDiagonal | None, *, unless: Callable[[], bool]) -> Iterator[None]:
    """Put a sum back as it was, in its own memory, if a block ends with an error.

    Args:
        diagonal: The sum; None for nothing.
        unless: Whether the sum must stay changed in spite of the error.
    """
    before = None if diagonal is None else clone(diagonal)
    try:
        yield
    except BaseException:
        if diagonal is not None and before is not None and not unless():
            for name, value in before.items():
                diagonal[name].copy_(value)
            for fact in FACTS:
                setattr(diagonal, fact, getattr(before, fact))
        raise
