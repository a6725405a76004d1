"""The area under the ROC curve."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["area_under_curve"]


def area_under_curve(members: Tensor, others: Tensor) -> float:
    """Return the area under the ROC curve: the probability that a member's score is above another sample's.

    A tie counts half.

    Args:
        members: Scores [N]; higher for membership.
        others: Scores [M].

    Returns:
        In [0, 1]; 0.5 is chance.

    Raises:
        ValueError: A side is empty, or a score is NaN.

    Example:
        >>> area_under_curve(torch.tensor([2.0, 1.0]), torch.tensor([1.0, 0.0]))
        0.875
    """
    for name, scores in (("members", members), ("others", others)):
        if not len(scores) or bool(scores.isnan().any()):
            raise ValueError(f"`{name}` must hold scores, not NaN, got shape {tuple(scores.shape)}")
    ordered = others.sort().values
    below, at_most = (torch.searchsorted(ordered, members.contiguous(), right=right) for right in (False, True))
    return float((below + at_most).double().mean()) / (2 * len(others))
