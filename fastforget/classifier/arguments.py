"""Checks of arguments: each raises TypeError for a wrong type, ValueError for a wrong value, in one grammar."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

__all__ = [
    "FRACTION",
    "NOT_NEGATIVE",
    "POSITIVE",
    "SHARE",
    "Interval",
    "check_choice",
    "check_integer",
    "check_number",
    "check_optional_number",
]


@dataclass(frozen=True)
class Interval:
    """Real numbers from ``low`` to ``high``; each end belongs to it or not.

    Example:
        >>> 0.0 in SHARE, 1.0 in SHARE, str(SHARE)
        (False, True, '(0, 1]')
    """

    low: float
    high: float
    with_low: bool = False
    with_high: bool = False

    def __contains__(self, value: float) -> bool:
        """Return whether a number lies in it; NaN lies nowhere."""
        above = value >= self.low if self.with_low else value > self.low
        below = value <= self.high if self.with_high else value < self.high
        return above and below

    def __str__(self) -> str:
        """Return it as it is written: ``(0, 1]``."""
        return f"{'[' if self.with_low else '('}{self.low:g}, {self.high:g}{']' if self.with_high else ')'}"


POSITIVE = Interval(0, math.inf)
NOT_NEGATIVE = Interval(0, math.inf, with_low=True)
SHARE = Interval(0, 1, with_high=True)
FRACTION = Interval(0, 1, with_low=True, with_high=True)


def check_integer(name: str, value: object, least: int = 1) -> None:
    """Check that an argument is an integer, at least ``least``, and no bool.

    Args:
        name: The argument, or a phrase that names it in backticks.
        value: What was given.
        least: The smallest value.

    Raises:
        TypeError: It is no integer.
        ValueError: It is smaller.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{_quoted(name)} must be an integer, got {type(value).__name__}")
    if value < least:
        raise ValueError(f"{_quoted(name)} must be at least {least}, got {value}")


def check_number(name: str, value: object, interval: Interval = POSITIVE) -> None:
    """Check that an argument is a number in an interval, and no bool.

    Args:
        name: The argument, or a phrase that names it in backticks.
        value: What was given.
        interval: Where it must lie.

    Raises:
        TypeError: It is no number.
        ValueError: It lies elsewhere, or is NaN.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{_quoted(name)} must be a number, got {type(value).__name__}")
    if value not in interval:
        raise ValueError(f"{_quoted(name)} must lie in {interval}, got {value}")


def check_optional_number(name: str, value: object, interval: Interval = POSITIVE) -> None:
    """Check that an argument is None or what `check_number` takes; raises as it does."""
    if value is not None:
        check_number(name, value, interval)


def check_choice(name: str, value: object, choices: Collection[object]) -> None:
    """Raise ValueError if an argument is none of the choices."""
    if value not in choices:
        raise ValueError(f"{_quoted(name)} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def _quoted(name: str) -> str:
    return name if "`" in name else f"`{name}`"
