"""Many predictions at a time, each led to what answers it; or one edit."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

__all__ = ["Gate"]

Place = TypeVar("Place")


class Gate(Generic[Place]):
    """Leads predictions to a place, side by side; an edit leads new ones elsewhere, or is let in alone.

    An edit that must be alone keeps new predictions out while it waits, or it might never get in. If those inside do
    not leave in time, it gives up and lets everybody in again: one prediction that hangs must not stop the service.

    Args:
        now: Where predictions are led first; anything that is hashed by its identity.

    Attributes:
        now: Where new predictions are led.
    """

    def __init__(self, now: Place) -> None:
        self.now: Place = now
        self._changed = threading.Condition()
        self._closed = False
        self._watched = 0  # threads that wait for somebody to leave
        self._inside: Counter[Place] = Counter()
        self._mine = threading.local()

    @property
    def inside(self) -> int:
        """Predictions that are inside now, wherever they are."""
        with self._changed:
            return self._inside.total()

    @contextmanager
    def shared(self) -> Iterator[Place]:
        """Let a prediction in, and say where it is led; one within another, of the same thread, stays with that one."""
        outer: list[Place] = self._places()
        if outer:
            yield outer[0]
            return
        with self._changed:
            while self._closed:
                self._changed.wait()
            place = self.now
            self._inside[place] += 1
        outer.append(place)
        try:
            yield place
        finally:
            outer.clear()
            with self._changed:
                self._inside[place] -= 1
                if not self._inside[place]:
                    del self._inside[place]
                if self._closed or self._watched:
                    self._changed.notify_all()

    def lead(self, place: Place) -> None:
        """Lead new predictions to another place; those inside stay where they are."""
        with self._changed:
            self.now = place

    def is_left(self, old: Callable[[Place], bool], patience: float) -> bool:
        """Wait until nobody is in certain places.

        Args:
            old: Which places these are; none to which new predictions are led.
            patience: For how many seconds to wait.

        Returns:
            Whether all have left.
        """
        with self._changed:
            self._watched += 1
            try:
                return self._changed.wait_for(lambda: not any(map(old, self._inside)), patience)
            finally:
                self._watched -= 1

    def check_outside(self) -> None:
        """Raise TimeoutError if this thread is inside a prediction: an edit would wait for it for ever."""
        if self._places():
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
                if not self._changed.wait_for(lambda: not self._inside, end - time.monotonic()):
                    raise TimeoutError(f"{self._inside.total()} predictions were not over in {patience:g} s")
            yield
        finally:
            with self._changed:
                self._closed = False
                self._changed.notify_all()

    def _places(self) -> list[Place]:
        """Return where this thread is: one place, or none."""
        places: list[Place] | None = getattr(self._mine, "places", None)
        if places is None:
            places = self._mine.places = []
        return places
