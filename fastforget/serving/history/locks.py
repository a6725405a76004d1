"""Locks that processes hold in turn, and waiting for them."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

__all__ = ["locked", "retry"]

_PAUSE = 0.01  # seconds
_Result = TypeVar("_Result")


@contextmanager
def locked(path: Path, patience: float, otherwise: str) -> Iterator[None]:
    """Hold the lock of a file, as only one process at a time can.

    Args:
        path: The file; made if there is none.
        patience: For how many seconds to wait for the lock.
        otherwise: What the error says if it does not come.

    Raises:
        OSError: The file cannot be opened.
        TimeoutError: Another process did not release it in time.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        retry(lambda: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB), patience, otherwise)
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)  # also where a child process, forked meanwhile, has the file open
        os.close(file)


def retry(attempt: Callable[[], _Result], patience: float, otherwise: str) -> _Result:
    """Try again until nothing blocks.

    Args:
        attempt: Raises BlockingIOError where another process is in the way.
        patience: For how many seconds to try.
        otherwise: What the error says if it did not succeed.

    Returns:
        What the attempt returns.

    Raises:
        TimeoutError: It did not succeed in time.
    """
    end = time.monotonic() + patience
    while True:
        try:
            return attempt()
        except BlockingIOError as error:
            if time.monotonic() > end:
                raise TimeoutError(f"{otherwise}; try again") from error
        time.sleep(_PAUSE)
