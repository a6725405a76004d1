"""Means and sample standard deviations over seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean, stdev

from fastforget.comparison.rows import Row

__all__ = ["Summary", "summarise"]


@dataclass(frozen=True)
class Summary:
    """What a measure is over seeds.

    Attributes:
        mean: The mean.
        deviation: The sample standard deviation (n - 1 in the denominator); None of a single value.
        values: By seed.
    """

    mean: float
    deviation: float | None
    values: Mapping[int, float]

    @classmethod
    def of(cls, values: Mapping[int, float]) -> Summary:
        """Summarise values.

        Args:
            values: By seed, at least one.

        Returns:
            The summary.

        Example:
            >>> Summary.of({0: 1.0, 1: 3.0}).deviation
            1.4142135623730951
        """
        found = list(values.values())
        return cls(fmean(found), stdev(found) if len(found) > 1 else None, values)


def summarise(rows: Iterable[Row], methods: Iterable[str]) -> dict[str, dict[str, Summary]]:
    """Return what each measure is over seeds, by method and measure.

    Args:
        rows: The rows.
        methods: The order of the methods.

    Returns:
        The summaries; what was measured with no seed is left out.
    """
    values: dict[str, dict[str, dict[int, float]]] = {}
    for row in rows:
        of_method = values.setdefault(row.method, {})
        for name, value in row.measures.items():
            if value is not None:
                of_method.setdefault(name, {})[row.seed] = value
    return {
        method: {name: Summary.of(found) for name, found in values[method].items()}
        for method in methods
        if method in values
    }
