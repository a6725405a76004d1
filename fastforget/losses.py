"""The losses of classifiers, in float64: of codes that a model is sure of, float32 leaves few digits or none."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastforget.batch import logits_of
from fastforget.labels import Loss

__all__ = ["ScaledCrossEntropy", "cross_entropy", "describe", "log_odds"]


def cross_entropy(outputs: Any, targets: Tensor) -> Tensor:
    """Return the cross-entropy of each sample, float64 [N], from logits [N, C] (or an object with ``.logits``)."""
    logits = logits_of(outputs).double()
    return F.cross_entropy(logits, targets.double() if targets.is_floating_point() else targets, reduction="none")


def log_odds(logits: Tensor, labels: Tensor) -> Tensor:
    """Return ``log(p / (1 - p))`` of each sample's own class, [N], without cancellation near p = 1."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    own = logits.gather(1, labels[:, None]).squeeze(1)
    others = logits.scatter(1, labels[:, None], -math.inf)
    return own - others.logsumexp(1)


@dataclass(frozen=True)
class ScaledCrossEntropy:
    """The cross-entropy times ``scale``, as log(1 + exp(-log-odds)).

    Models are sure of their codes. In float32 the gradient that reaches the logit of the sample's own class, p - 1,
    is zero from log-odds of 17 on, in float64 from 37 on, and the squares of all gradients vanish in the stabiliser of
    their ratio, or in float32's range. The scale brings them back; it cancels in the ratio and in the step.

    Attributes:
        scale: Positive.
    """

    scale: float = 1.0

    def __call__(self, outputs: Any, targets: Tensor) -> Tensor:
        """Return the loss of each sample, float64 [N]."""
        return self.scale * F.softplus(-log_odds(logits_of(outputs).double(), targets))

    def log_odds(self, losses: Tensor) -> Tensor:
        """Return the log-odds that samples with these losses had, float64 [N]."""
        return -(losses.double() / self.scale).expm1().log()


def describe(loss: Loss) -> tuple[str, float]:
    """Return the name and the scale of a loss: both must be the same for two Fisher diagonals to be added."""
    if loss is cross_entropy or isinstance(loss, ScaledCrossEntropy):
        return "cross_entropy", getattr(loss, "scale", 1.0)
    kind = loss if hasattr(loss, "__qualname__") else type(loss)
    return f"{kind.__module__}.{kind.__qualname__}", 1.0
