"""What the features before the output layer still say of a class: two classifiers that are trained on them anew."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["linear_probe", "nearest_mean"]

_DECAY = 1e-3  # of the squared weights, for features of mean square 1
_ITERATIONS = 200


def linear_probe(features: Tensor, targets: Tensor, unknown: Tensor) -> Tensor:
    """Return what a linear classifier of all classes says, trained on features of a few samples.

    Multinomial logistic regression: ``mean cross-entropy + 0.0005 |W|^2``, by L-BFGS from zero in float64. Features are
    centred and brought to a mean square of 1 together, so that their scale does not matter.

    Args:
        features: Of the samples to learn from, [N, D].
        targets: Their classes, int64 [N].
        unknown: Features of other samples, [M, D].

    Returns:
        The classes that it gives those, int64 [M].
    """
    features, unknown = features.double(), unknown.double()
    centre = features.mean(0)
    scale = (features - centre).square().mean().sqrt().clamp(min=1e-300)
    x = (features - centre) / scale
    classes, y = targets.unique(return_inverse=True)
    weight = torch.zeros(len(classes), x.shape[1], dtype=x.dtype, device=x.device, requires_grad=True)
    bias = torch.zeros(len(classes), dtype=x.dtype, device=x.device, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=_ITERATIONS,
        tolerance_grad=1e-6,
        tolerance_change=1e-12,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(F.linear(x, weight, bias), y) + 0.5 * _DECAY * weight.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    found: Tensor = classes[F.linear((unknown - centre) / scale, weight.detach(), bias.detach()).argmax(1)]
    return found


def nearest_mean(features: Tensor, targets: Tensor, unknown: Tensor) -> Tensor:
    """Return the class whose mean feature is nearest to each sample's, by Euclidean distance.

    Args:
        features: Of the samples whose means are taken, [N, D].
        targets: Their classes, int64 [N].
        unknown: Features of other samples, [M, D].

    Returns:
        Classes, int64 [M].
    """
    features, unknown = features.double(), unknown.double()
    classes = targets.unique()
    means = torch.stack([features[targets == cls].mean(0) for cls in classes.tolist()])
    found: Tensor = classes[torch.cdist(unknown, means, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)]
    return found
