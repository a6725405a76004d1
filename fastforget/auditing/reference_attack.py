"""The robust membership attack from reference models."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fastforget.classifier.predictions import Predictions

__all__ = ["log_ratios", "robust_ratios"]

_OFFLINE = 0.3  # `a` of the paper, its value for CIFAR-10
_GAMMA = 2.0  # how much more the model must prefer a sample than one of the population does


def robust_ratios(seen: Predictions, shadows: Sequence[Predictions], population: Tensor) -> Tensor:
    """Return for each sample the share of the population that it beats: how much more the model knows of it.

    ``score(x) = share of z with r(x) >= gamma r(z)``, ``r(x) = p(x | model) / p(x)``, where p(x | ...) is the
    probability of the sample's class and ``p(x) = ((1 + a) mean of p(x | reference model) + 1 - a) / 2``.

    Source: the offline attack RMIA of Zarifzadeh, Liu, Shokri, "Low-Cost High-Power Membership Inference Attacks", ICML
    2024, with plain probabilities; ``gamma = 2`` and ``a = 0.3``. One reference model is enough.

    Args:
        seen: What the model says of N samples.
        shadows: What reference models say of them that were trained without them.
        population: ``log r(z)`` of samples that no model was trained on, see `log_ratios`, [Z].

    Returns:
        Scores in [0, 1], [N].
    """
    reach = log_ratios(seen, shadows) - math.log(_GAMMA)
    return torch.searchsorted(population.sort().values, reach, right=True).double() / len(population)


def log_ratios(seen: Predictions, shadows: Sequence[Predictions]) -> Tensor:
    """Return ``log r(x)`` of N samples, see `robust_ratios`, [N]."""
    references = torch.stack([(-shadow.losses).exp() for shadow in shadows]).mean(0)
    expected = 0.5 * ((1 + _OFFLINE) * references + 1 - _OFFLINE)
    return -seen.losses - expected.log()
