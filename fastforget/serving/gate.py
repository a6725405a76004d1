"""Many predictions at a time, or one edit."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Gate"]


class Gate:
    """Lets predictions in side by side, and an edit alone.

    An edit that waits keeps new predictions out, or it might never get in. If those inside do not leave in time, it
    gives up and lets everybody in again: one prediction that hangs must not stop the service.

    Attributes:
        inside: Predictions that are inside now.
    """

    def __init__(self) -> None:
        """Open it."""
        self._changed = threading.Condition()
        self._closed = False
        self._mine = threading.local()
        self.inside = 0

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Let a prediction in; one within another, of the same thread, goes straight through."""
        depth = self._depth()
        if not depth:
            with self._changed:
                while self._closed:
                    self._changed.wait()
                self.inside += 1
        self._mine.depth = depth + 1
        try:
            yield
        finally:
            self._mine.depth = depth
            if not depth:
                with self._changed:
                    self.inside -= 1
                    if self._closed:
                        self._changed.notify_all()

    def check_outside(self) -> None:
        """Raise TimeoutError if this thread is inside a prediction: an edit would wait for it for ever."""
        if self._depth():
            raise TimeoutError("an edit cannot be made from inside a prediction")

    @contextmanager
    def alone(self, patience: float) -> Iterator[None]:
        """Let an edit in when all predictions have left.

        Args:
            patience: For how many seconds to wait for them.

        Raises:
            TimeoutError: They did not leave in time, or this thread is inside a prediction itself.
        """
        self.check_outside()
        end = time.monotonic() + patience
        with self._changed:
            if not self._changed.wait_for(lambda: not self._closed, end - time.monotonic()):
                raise TimeoutError(f"another edit was not over in {patience:g} s")
            self._closed = True
        try:  # from here on whatever happens, an interrupt included, lets everybody in again
            with self._changed:
                if not self._changed.wait_for(lambda: not self.inside, end - time.monotonic()):
                    raise TimeoutError(f"{self.inside} predictions were not over in {patience:g} s")
            yield
        finally:
            with self._changed:
                self._closed = False
                self._changed.notify_all()

    def _depth(self) -> int:
        """Return in how many predictions, one within another, this thread is."""
        depth: int = getattr(self._mine, "depth", 0)
        return depth
