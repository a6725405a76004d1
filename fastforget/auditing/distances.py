"""How far apart two classifiers are in what they say of the same samples."""

from __future__ import annotations

import math

import torch

from fastforget.classifier.predictions import Predictions

__all__ = ["activation_distance", "agreement", "divergence"]


def divergence(one: Predictions, other: Predictions) -> float:
    """Return the mean Jensen-Shannon divergence of the predictions, bits: 0 for equal ones, at most 1."""
    middle = torch.stack([one.log_p, other.log_p]).logsumexp(0) - math.log(2)
    parts = [(seen.p * (seen.log_p - middle)).nan_to_num(nan=0.0).sum(1).mean() for seen in (one, other)]
    return float(sum(parts)) / (2 * math.log(2))


def activation_distance(one: Predictions, other: Predictions) -> float:
    """Return the mean Euclidean distance of the predicted probabilities (Golatkar et al., 2021): 0 to sqrt(2)."""
    return float((one.p - other.p).norm(dim=1).mean())


def agreement(one: Predictions, other: Predictions) -> float:
    """Return the share of samples that both give the same class, in [0, 1]."""
    return float((one.logits.argmax(1) == other.logits.argmax(1)).double().mean())
