"""The drift of a step: what it does to the logits of remaining classes on average."""

from __future__ import annotations

import torch
from torch import Tensor

from fastforget.class_forgetting.code_batch import CodeBatch
from fastforget.classifier.devices import read_values

__all__ = ["bearable_drift"]


def bearable_drift(codes: CodeBatch, logits: Tensor, spill: float) -> Tensor | None:
    """Return what may be taken back from the logits of remaining classes by their output biases.

    For each remaining class this is the mean shift of its logit over the remaining codes, against the mean of the
    remaining logits. A step shifts the logits of images much as it shifts those of codes, and a shift common to all
    inputs is what moves the images that are near a boundary across it.

    Args:
        codes: The codes, with what the model said of them before the step.
        logits: What it says after the step, [N, C].
        spill: How much log-odds a remaining code may lose when the drift is taken back, nats.

    Returns:
        The drift of the remaining classes, [C], nats, 0 for the others. None where a remaining code would lose more, or
        where the remaining codes were not run.
    """
    if codes.logits is None or not codes.remain_rows:
        return None
    shift = (codes.take_remain(logits).double() - codes.take_remain(codes.logits).double()).mean(0)
    live = torch.zeros_like(shift).index_fill(0, codes.take_remain(codes.labels), 1.0)
    drift = live * (shift - (shift * live).sum() / live.sum())
    (before,), (after,) = read_values(
        codes.log_odds_lost(logits.double()).max(), codes.log_odds_lost(logits.double() - drift).max()
    )
    return drift if after <= max(before, spill) else None
