"""A thread that keeps a live model up to date with its history, which others write, too."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from fastforget.errors import ForgettingError
from fastforget.serving.durations import LONGEST, check_seconds
from fastforget.serving.history.requests import Request

__all__ = ["Follower"]

_LOG = logging.getLogger(__name__)
_RARELY = 10  # times the patience, after a prediction that hung

KeepUp = Callable[[], Sequence[Request]]
CarryOut = Callable[[Request], object]


class Follower:
    """Looks into the history from time to time, in a thread of its own.

    A look that fails does not end the thread: `trouble` says what went wrong, and the next look tries again.

    Args:
        patience: Seconds that an edit may keep predictions waiting. After a prediction that hung, the next look is put
            off by a multiple of it, so that others are not kept out again and again.

    Attributes:
        trouble: What went wrong in the last look; None if nothing did.
    """

    def __init__(self, patience: float) -> None:
        self.trouble: str | None = None
        self._patience = patience
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    @property
    def running(self) -> bool:
        """Whether its thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, every: float, keep_up: KeepUp, carry_out: CarryOut) -> None:
        """Start the thread.

        Args:
            every: Seconds between two looks.
            keep_up: Brings the model up to date and returns the requests that wait.
            carry_out: Carries out one of them.

        Raises:
            ValueError: The time is not positive, or the thread runs already.
        """
        check_seconds("every", every)
        if self._thread is not None:
            raise ValueError("`follow` must be called once, its thread runs already")
        self._stop = threading.Event()
        arguments = (every, keep_up, carry_out, self._stop)
        self._thread = threading.Thread(target=self._run, args=arguments, name="fastforget-follow", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread, after the edit that it may be making."""
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
            self._thread = None

    def _run(self, every: float, keep_up: KeepUp, carry_out: CarryOut, stop: threading.Event) -> None:
        wait = every
        while not stop.wait(wait):
            error = _look(keep_up, carry_out, stop)
            self.trouble = None if error is None else f"{type(error).__name__}: {error}"
            if self.trouble:
                _LOG.warning("cannot follow the archive: %s", self.trouble)
            wait = self._put_off(wait, every) if isinstance(error, TimeoutError) else every

    def _put_off(self, wait: float, every: float) -> float:
        """Return the seconds to the next look after one that a hanging prediction stopped; they double each time."""
        return min(max(every, _RARELY * self._patience, 2 * wait * (wait > every)), LONGEST)


def _look(keep_up: KeepUp, carry_out: CarryOut, stop: threading.Event) -> Exception | None:
    """Keep up, carry out what waits, and return what went wrong; whatever it is, predictions go on."""
    try:
        waiting = keep_up()
    except Exception as error:  # noqa: BLE001 (told as `trouble`)
        return error
    for request in waiting:
        if stop.is_set():
            break
        try:
            carry_out(request)
        except (ForgettingError, ValueError):  # another process came first, or the refusal is on record
            continue
        except Exception as error:  # noqa: BLE001 (likewise)
            return error
    return None
