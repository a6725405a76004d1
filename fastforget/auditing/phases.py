"""The phases of an audit: timed, and shown by a bar."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from fastforget.classifier.clock import Clock
from fastforget.classifier.progress import progress_bar

__all__ = ["ShownClock", "phase_bar"]

_PHASES = 8  # as many as `fastforget.auditing.run` has


def phase_bar(*, shown: bool) -> AbstractContextManager[Any]:
    """Return a bar of the phases of an audit, or a context of None."""
    return progress_bar(total=_PHASES, desc="audit", unit="phase", leave=False) if shown else nullcontext()


class ShownClock(Clock):
    """A clock that also says on a bar which phase it is in."""

    def __init__(self, bar: Any) -> None:
        """Start.

        Args:
            bar: Of `phase_bar`.
        """
        super().__init__()
        self._bar = bar

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time of a block to a phase, and show its name meanwhile."""
        if self._bar is not None:
            self._bar.set_description(f"audit: {name}")
        with super().phase(name):
            yield
        if self._bar is not None:
            self._bar.update()
