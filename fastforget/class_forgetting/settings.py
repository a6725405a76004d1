"""The settings of the two rules, checked."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from fastforget.classifier.arguments import SHARE, check_number

__all__ = ["NaturalSettings", "PaperSettings"]


@dataclass(frozen=True, kw_only=True)
class NaturalSettings:
    """Settings of the natural rule.

    Attributes:
        rho: Share of the parameters that moves, (0, 1].
        widen: How many times as many parameters are tried where these end more than a nat short of ``depth``, >= 1.
        depth: How far beyond the decision boundary the codes to forget end, nats of log-odds.
        spill: How much of its log-odds a remaining code may lose, nats.
        reach: The longest step, in units of the one that would lead to ``depth`` to first order.

    Raises:
        TypeError: One is no number.
        ValueError: One is out of range.
    """

    rho: float
    widen: float
    depth: float
    spill: float
    reach: float

    def __post_init__(self) -> None:
        """Check every setting."""
        check_number("rho", self.rho, SHARE)
        for name in ("widen", "depth", "spill", "reach"):
            check_number(name, getattr(self, name))
        if self.widen < 1:
            raise ValueError(f"`widen` must be at least 1, got {self.widen}")

    def after(self, earlier: int, classes: int) -> NaturalSettings:
        """Return the settings for some classes, after others were forgotten: they share the bound on what is lost.

        Losses that are independent of each other grow with the root of the number of classes. So K classes after n may
        take (sqrt(n + K) - sqrt(n)) times ``spill``.

        Args:
            earlier: How many were forgotten earlier, n.
            classes: How many are to be forgotten, K.

        Returns:
            The same settings with another ``spill``.
        """
        return replace(self, spill=self.spill * (math.sqrt(earlier + classes) - math.sqrt(earlier)))


@dataclass(frozen=True, kw_only=True)
class PaperSettings:
    """Settings of the paper's rule.

    Attributes:
        lambda1: Bound on the scale of a tensor's change.
        lambda2: Bound on the largest change in a tensor.

    Raises:
        TypeError: One is no number.
        ValueError: One is not positive and finite.
    """

    lambda1: float
    lambda2: float

    def __post_init__(self) -> None:
        """Check both."""
        check_number("lambda1", self.lambda1)
        check_number("lambda2", self.lambda2)
