"""Codes by the thousand: so many are run at a time that the activations of one micro-batch are all that is held."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastforget.batch import Inputs, split_samples, tensors_of
from fastforget.diagonal import FisherDiagonal
from fastforget.fisher import fisher_diagonal

__all__ = ["gather_logits", "mean_fisher"]


def gather_logits(logits: Callable[[Inputs], Tensor], inputs: Inputs, batch_size: int | None) -> Tensor:
    """Return the logits of all samples, from runs of at most ``batch_size`` of them, in order.

    Args:
        logits: Runs some samples, and returns their logits.
        inputs: All samples, leaves [N, ...].
        batch_size: None for all at once.

    Returns:
        The logits, [N, C].
    """
    samples = len(tensors_of(inputs)[0])
    if batch_size is None or batch_size >= samples:
        return logits(inputs)
    return torch.cat([logits(some) for some, _ in split_samples(inputs, None, samples, batch_size)])


def mean_fisher(
    model: nn.Module,
    samples: Callable[[Sequence[int]], tuple[Inputs, Tensor]],
    rows: Sequence[int],
    batch_size: int | None,
    **settings: Any,
) -> FisherDiagonal:
    """Return the mean Fisher of some samples, from runs of at most ``batch_size`` of them, in order.

    Args:
        model: The eager module.
        samples: Returns the inputs and labels of some samples.
        rows: Which samples, N of them.
        batch_size: None for all at once.
        settings: As for `fisher_diagonal`.

    Returns:
        The mean, with the losses [N].
    """
    size = batch_size or len(rows)
    if size >= len(rows):
        return fisher_diagonal(model, *samples(rows), **settings)
    total = fisher_diagonal(model, *samples(rows[:size]), reduction="sum", **settings)
    for n in range(size, len(rows), size):
        fisher_diagonal(model, *samples(rows[n : n + size]), into=total, **settings)
    return total.mean_()
