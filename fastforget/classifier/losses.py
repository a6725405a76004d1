"""The losses of classifiers, in float64: where a model is sure, float32 leaves few digits or none."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastforget.classifier.running import logits_of

__all__ = [
    "GroupScaledCrossEntropy",
    "Loss",
    "ScaledCrossEntropy",
    "check_depends",
    "cross_entropy",
    "depth_beyond_boundary",
    "describe",
    "log_odds",
    "odds_of_losses",
]

Loss = Callable[[Any, Any], Tensor]  # of outputs and targets, [N]
_CERTAIN = 40.0  # nats, from where on log(1 + exp(-odds)) is exp(-odds) in float64


def check_depends(*, depends: bool) -> None:
    """Refuse a loss that depends on none of the parameters that may move: no step would reach what serves.

    Adapters are such parameters while they are merged into other weights.

    Args:
        depends: Whether it depends on one.

    Raises:
        ValueError: It does not.
    """
    if not depends:
        raise ValueError(
            "the loss must depend on parameters that may move, but the model does not use any of them: unfreeze those "
            "that it uses, or name them; adapters that are merged into other weights are not used until they are "
            "unmerged"
        )


def cross_entropy(outputs: Any, targets: Tensor) -> Tensor:
    """Return the cross-entropy of each sample, float64 [N], from logits [N, C] (or an object with ``.logits``)."""
    logits = logits_of(outputs).double()
    try:
        return F.cross_entropy(logits, targets.double() if targets.is_floating_point() else targets, reduction="none")
    except IndexError as error:  # said before anything else only on a CPU: elsewhere it would have to be waited for
        raise ValueError(f"`targets` must be classes of the model, in [0, {logits.shape[-1]}): {error}") from error


def log_odds(logits: Tensor, labels: Tensor) -> Tensor:
    """Return ``log(p / (1 - p))`` of each sample's own class, [N], without cancellation near p = 1."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    own = logits.gather(1, labels[:, None]).squeeze(1)
    others = logits.scatter(1, labels[:, None], -math.inf)
    return own - others.logsumexp(1)


def depth_beyond_boundary(logits: Tensor, classes: Tensor) -> Tensor:
    """Return how far samples are from some classes on average, nats of log-odds, a float64 scalar.

    Samples of the classes need not be told apart from each other: the nearest of the classes counts.

    Args:
        logits: [N, C].
        classes: Some of the C classes, int64 [K].
    """
    wide = logits.double()
    others = wide.index_fill(1, classes, -torch.inf).logsumexp(1)
    return (others - wide[:, classes].amax(1)).mean()


def odds_of_losses(losses: Tensor, log_scale: float = 0.0) -> Tensor:
    """Return the log-odds of samples with these losses: the cross-entropy times exp(log_scale); float64 [N]."""
    log_losses = losses.double().log() - log_scale
    plain = log_losses.clamp(min=-_CERTAIN).exp()
    # -log(exp(L) - 1) is -log L where L is small, and L itself may then be below the range of float64
    return -torch.where(log_losses < -_CERTAIN, log_losses, plain + (-torch.expm1(-plain)).log())


@dataclass(frozen=True)
class ScaledCrossEntropy:
    """The cross-entropy times ``scale``, as log(1 + exp(-log-odds)).

    Models are sure of their codes. The gradient of the logit of a sample's own class is p - 1: in float32 that is zero
    from log-odds of 17 nats on, in float64 from 37 on. Its squares vanish earlier, beside the stabiliser of their
    ratio or below float32's range. The scale brings them back; it cancels in the ratio and in the step.

    Attributes:
        scale: Positive.
    """

    scale: float = 1.0

    def __call__(self, outputs: Any, targets: Tensor) -> Tensor:
        """Return the loss of each sample, float64 [N]."""
        return _scaled_losses(outputs, targets, math.log(self.scale))

    def log_odds(self, losses: Tensor) -> Tensor:
        """Return the log-odds that samples with these losses had, float64 [N]."""
        return odds_of_losses(losses, math.log(self.scale))


@dataclass(frozen=True, eq=False)
class GroupScaledCrossEntropy:
    """The cross-entropy, times one factor for samples of some classes and another for the rest.

    A model may be far surer of one group of codes than of the other. One factor for both then leaves the gradients of
    one outside float32. The factors are given by their logarithms: where 1 - p is below the range of floating-point
    numbers, its inverse is beyond that range, and the product of both is not.

    Attributes:
        classes: The classes of the first group, int64 [K].
        log_scales: The logarithm of the factor of the first group, and of the rest.
    """

    classes: Tensor
    log_scales: tuple[float, float]

    def __call__(self, outputs: Any, targets: Tensor) -> Tensor:
        """Return the loss of each sample, float64 [N]."""
        first = (targets[:, None] == self.classes).any(1)
        of_first, of_rest = self.log_scales
        return _scaled_losses(outputs, targets, first.double() * of_first + (~first).double() * of_rest)


def _scaled_losses(outputs: Any, targets: Tensor, log_scale: float | Tensor) -> Tensor:
    """Return exp(log_scale) log(1 + exp(-log-odds)) of each sample, from the logarithm of both factors."""
    odds = log_odds(logits_of(outputs).double(), targets)
    log_losses = torch.where(odds > _CERTAIN, -odds, F.softplus(-odds.clamp(max=_CERTAIN)).log())
    return (log_losses + log_scale).exp()


def describe(loss: Loss) -> tuple[str, float]:
    """Return the name and the scale of a loss: both must be the same for two Fisher diagonals to be added."""
    if loss is cross_entropy or isinstance(loss, ScaledCrossEntropy):
        return "cross_entropy", getattr(loss, "scale", 1.0)
    kind = loss if hasattr(loss, "__qualname__") else type(loss)
    return f"{kind.__module__}.{kind.__qualname__}", 1.0
