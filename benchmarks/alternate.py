"""Times that can be divided by each other.

The candidates run in turn, round after round, in one process. So a disturbance of the machine falls on all of them.
A ratio is the median over the rounds of the two times *of the same round*.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import quantiles
from typing import Any

Seconds = dict[str, list[float]]


@dataclass(frozen=True)
class Ratio:
    """Median and quartiles over rounds."""

    median: float
    low: float
    high: float
    rounds: int


def clock(threads: int) -> Callable[[], float]:
    """Return the clock: processor time for one thread, which others do not disturb, and wall time for more."""
    return time.process_time if threads == 1 else time.perf_counter


def alternate(
    candidates: Mapping[str, Callable[[], Any]],
    rounds: int,
    *,
    clock: Callable[[], float],
    few: Mapping[str, int] | None = None,
    warm_up: bool = True,
) -> Seconds:
    """Time every candidate once per round, after one round untimed to warm up.

    Slow candidates are in ``few``: they take part in that many of the last rounds only. (In the round after them
    everything else finds cold caches, which would flatter them.) After the time is taken, what the candidate returned
    is freed, and its method ``undo`` is called if it has one.
    """
    if rounds < 1:
        raise ValueError(f"`rounds` must be positive, got {rounds}")
    seconds: Seconds = {name: [] for name in candidates}
    for index in range(-1 if warm_up else 0, rounds):
        for name, run in candidates.items():
            if 0 <= index < rounds - (few or {}).get(name, rounds):
                continue
            begin = clock()
            result = run()
            end = clock()
            del result
            getattr(run, "undo", lambda: None)()
            if index >= 0:
                seconds[name].append(end - begin)
    return seconds


def ratio(seconds: Mapping[str, list[float]], candidate: str, baseline: str) -> Ratio:
    """Divide two candidates' times round by round, over the last rounds, in which both took part."""
    both = min(len(seconds[candidate]), len(seconds[baseline]))
    pairs = zip(*(seconds[name][len(seconds[name]) - both :] for name in (candidate, baseline)), strict=True)
    values = [a / b for a, b in pairs]
    if not values:
        raise ValueError(f"{candidate!r} and {baseline!r} must have rounds in common")
    low, median, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return Ratio(median, low, high, len(values))
