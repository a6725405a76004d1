"""One number of an audit, beside that of the original and of the retrained model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["Metric", "Target", "format_number"]

Target: TypeAlias = Literal["retrained", "higher", "lower"] | float


@dataclass(frozen=True)
class Metric:
    """One number of an audit.

    Attributes:
        name: What it is called.
        value: Of the audited model; None where it cannot be measured.
        target: What is best: "retrained", the value of a model that never saw the samples; "higher"; "lower"; or the
            number to be near to.
        meaning: What it measures, with its unit, in a sentence.
        original: Of the model before forgetting, where given.
        retrained: Of the retrained model, where given.
        error: Standard error, where known.
        novel: Of classes that the model never saw, a value for each, where such were given.
    """

    name: str
    value: float | None
    target: Target
    meaning: str
    original: float | None = None
    retrained: float | None = None
    error: float | None = None
    novel: tuple[float, ...] | None = None

    @property
    def gap(self) -> float | None:
        """The distance to the retrained model, or to the number that is the target; None if neither is known."""
        goal = self.retrained if self.retrained is not None else self.target
        return abs(self.value - goal) if self.value is not None and not isinstance(goal, str) else None

    @property
    def of_novel(self) -> float | None:
        """The mean over novel classes, None where there are none."""
        return sum(self.novel) / len(self.novel) if self.novel else None


def format_number(value: float | None) -> str:
    """Return a number as a table shows it; an empty text for None and NaN."""
    if value is None or math.isnan(value):
        return ""
    return f"{value:.3f}" if abs(value) < 100 and value != int(value) else f"{value:g}"
