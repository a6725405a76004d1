"""Many predictions at a time, or one edit."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Gate"]


class Gate:
    """Lets predictions in side by side, and an edit alone.

    An edit that waits keeps new predictions out, so that it is not put off for ever; if those inside do not leave in
    time, it gives up and lets everybody in again: one prediction that hangs must not stop the service.

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
        depth = getattr(self._mine, "depth", 0)
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

    @property
    def mine(self) -> bool:
        """Whether this thread is inside a prediction."""
        return getattr(self._mine, "depth", 0) > 0

    @contextmanager
    def alone(self, patience: float) -> Iterator[None]:
        """Let an edit in when all predictions have left.

        Args:
            patience: For how many seconds to wait for them.

        Raises:
            TimeoutError: They did not leave in time, or the thread is inside a prediction itself.
        """
        if self.mine:
            raise TimeoutError("an edit cannot be made from inside a prediction")
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
                self._open()

    def _open(self) -> None:
        self._closed = False
        self._changed.notify_all()
