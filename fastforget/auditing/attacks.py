"""Membership attacks: scores that are higher for samples that a model was trained on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastforget.classifier.predictions import Predictions
from fastforget.membership.area import area_under_curve

__all__ = ["SCORES", "Area", "caught_share", "likelihood_ratio"]

# Attacks that need nothing but the model: Yeom et al., 2018 (loss, correctness), Salem et al., 2019 (confidence,
# entropy), Song and Mittal, 2021 (modified entropy).
SCORES: dict[str, Callable[[Predictions], Tensor]] = {
    "loss": lambda seen: -seen.losses,
    "confidence": lambda seen: seen.confidences,
    "entropy": lambda seen: -seen.entropies,
    "modified entropy": lambda seen: -seen.modified_entropies,
    "correctness": lambda seen: seen.correct.double(),
}


@dataclass(frozen=True)
class Area:
    """How well scores tell samples to forget from unseen ones of the same class.

    Attributes:
        value: Area under the curve: 0.5 is chance, more says member, less says stranger.
        error: Standard error of it where there is nothing to tell.
    """

    value: float
    error: float

    @classmethod
    def of(cls, score: Callable[[Predictions], Tensor], forget: Predictions, unseen: Predictions) -> Area:
        """Compare the scores of both, class by class, each with the weight that it has among those to forget.

        All at once, classes that are easier would look like members where there are more of them.

        Args:
            score: Higher for members.
            forget: What the model says of samples to forget.
            unseen: What it says of samples that it was not trained on, at least one of each class of those to forget.

        Returns:
            The area.
        """
        value = variance = 0.0
        for label in forget.targets.unique().tolist():
            one, other = (score(seen.of_classes([label])) for seen in (forget, unseen))
            n, m = len(one), len(other)
            weight = n / len(forget.targets)
            value += weight * area_under_curve(one, other)
            variance += weight**2 * (n + m + 1) / (12 * n * m)
        return cls(value, math.sqrt(variance))


def caught_share(
    score: Callable[[Predictions], Tensor], forget: Predictions, unseen: Predictions, rate: float
) -> float:
    """Return the true-positive rate at a false-positive rate: the share of samples to forget that an attack is sure of.

    One threshold for all classes, the lowest above which lies at most a share ``rate`` of the unseen samples. These are
    weighted so that each class has the share that it has among the samples to forget.

    Source: Carlini et al., "Membership Inference Attacks From First Principles", S&P 2022, section III.

    Args:
        score: Higher for members.
        forget: What the model says of samples to forget.
        unseen: What it says of samples that it was not trained on, at least one of each class of those to forget.
        rate: The false-positive rate, in [0, 1].

    Returns:
        In [0, 1].
    """
    unseen = unseen.of_classes(forget.targets.unique().tolist())
    classes = forget.logits.shape[1]
    wanted, found = (torch.bincount(seen.targets, minlength=classes).double() for seen in (forget, unseen))
    weights = (wanted / len(forget.targets) / found.clamp(min=1))[unseen.targets]
    scores, order = score(unseen).sort(descending=True)
    alarms = weights[order].cumsum(0)  # if this sample, and all above it, are taken for members
    fine = int((alarms <= rate + 1e-12).sum())
    if fine == len(scores):
        return 1.0
    return float((score(forget) > scores[fine]).double().mean())


def likelihood_ratio(seen: Predictions, shadows: Sequence[Predictions]) -> Tensor:
    """Return how much surer a model is of each sample than models that never saw it, in their standard deviations.

    ``score = (odds - mean over shadows) / deviation over shadows``, with one deviation for all samples where there are
    fewer than eight shadows.

    Source: the offline attack of Carlini et al., "Membership Inference Attacks From First Principles" (LiRA), S&P 2022;
    the score in place of its tail probability, of which it is a monotone function.

    Args:
        seen: What the model says of N samples.
        shadows: What at least two models say of them that were trained alike, without them.

    Returns:
        Scores [N].

    Raises:
        ValueError: There are fewer than two shadows.
    """
    if len(shadows) < 2:
        raise ValueError(f"`shadows` must be at least two models, got {len(shadows)}")
    odds = torch.stack([shadow.odds for shadow in shadows])
    if len(shadows) < 8:
        deviation = (odds - odds.mean(0)).square().sum().div(odds.numel() - odds.shape[1]).sqrt()
    else:
        deviation = odds.std(0)
    return (seen.odds - odds.mean(0)) / deviation.clamp(min=1e-6)
