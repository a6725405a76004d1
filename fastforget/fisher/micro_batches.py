"""The Fisher of many samples in micro-batches, so that only the activations of one micro-batch are in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from fastforget.classifier.inputs import Inputs
from fastforget.fisher.compute import fisher_diagonal
from fastforget.fisher.diagonal import FisherDiagonal

__all__ = ["mean_fisher"]


def mean_fisher(
    model: nn.Module,
    samples_at: Callable[[Sequence[int]], tuple[Inputs, Tensor]],
    rows: Sequence[int],
    batch_size: int | None,
    **settings: Any,
) -> FisherDiagonal:
    """Return the mean Fisher of some samples, computed from at most ``batch_size`` of them at a time, in order.

    Args:
        model: The eager module.
        samples_at: Returns the inputs and labels of the samples at some indices.
        rows: The indices of the N samples.
        batch_size: None for all at once.
        **settings: As for `fisher_diagonal`.

    Returns:
        The mean, with the losses [N].
    """
    size = batch_size or len(rows)
    if size >= len(rows):
        return fisher_diagonal(model, *samples_at(rows), **settings)
    total = fisher_diagonal(model, *samples_at(rows[:size]), reduction="sum", **settings)
    for n in range(size, len(rows), size):
        fisher_diagonal(model, *samples_at(rows[n : n + size]), into=total, **settings)
    return total.mean_()
