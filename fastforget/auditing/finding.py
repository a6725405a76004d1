"""Something that speaks against an audited model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = ["KINDS", "STANDARD_ERRORS", "Finding", "error_of_difference", "standard_error"]

STANDARD_ERRORS = 4.0  # how far from its goal a figure must be to be no accident

Kind = Literal[
    "remembers",
    "over-forgotten",
    "damaged",
    "trigger",
    "hidden",
    "still in the features",
    "easier to learn again",
]

KINDS: Mapping[Kind, str] = {
    "remembers": "The model still treats samples that it was to forget as ones that it was trained on.",
    "over-forgotten": "Samples that it was to forget look less known than unseen ones, which gives them away.",
    "damaged": "It lost accuracy on what remains.",
    "trigger": "A code turns other samples into its class.",
    "hidden": "A class is only hidden behind a bias of the output.",
    "still in the features": "The features still hold much of a class that it was to forget.",
    "easier to learn again": "A class is learnt again more easily than by a model that never saw it.",
}  # what each kind means, for a reader


@dataclass(frozen=True)
class Finding:
    """Something that speaks against the model.

    Attributes:
        kind: "remembers", "over-forgotten", "damaged" or "trigger"; of classes none of whose samples remain also
            "hidden" (behind a bias), "still in the features" or "easier to learn again" (than for a model that never
            saw them).
        text: What it is, with its figures.
    """

    kind: Kind
    text: str


def standard_error(share: float, samples: int) -> float:
    """Return the standard error of a share of some samples, of at least one sample."""
    return max(math.sqrt(share * (1 - share) / samples), 1 / samples)


def error_of_difference(one: float, other: float, samples: int) -> float:
    """Return the standard error of the difference of two models' shares of the same number of samples."""
    return math.hypot(standard_error(one, samples), standard_error(other, samples))
