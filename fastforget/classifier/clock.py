"""Wall time by phase of a call."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Clock"]


class Clock:
    """Measures how long the phases of a call take, from when it is made.

    Example:
        >>> clock = Clock()
        >>> with clock.phase("check"):
        ...     pass
        >>> list(clock.seconds())
        ['check', 'total']
    """

    def __init__(self) -> None:
        """Start."""
        self._started = time.perf_counter()
        self._phases: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time of a block to a phase, if it ends without an exception."""
        started = time.perf_counter()
        yield
        self._phases[name] = self._phases.get(name, 0.0) + time.perf_counter() - started

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each phase, and ``"total"`` since the start."""
        return {**self._phases, "total": time.perf_counter() - self._started}
