"""The thread that looks into the history from time to time."""

import threading
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from fastforget import ForgettingError
from fastforget.serving import Request
from fastforget.serving.follower import Follower

REQUESTS = [Request(name, (number,), "", "") for number, name in enumerate("abcd")]


def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_it_carries_out_what_waits_until_it_is_stopped() -> None:
    follower, done = Follower(1.0), list[str]()
    with pytest.raises(ValueError, match=r"^`every` must be a positive number of seconds"):
        follower.start(0, list, done.append)
    for _ in range(2):
        done.clear()
        follower.start(0.001, lambda: REQUESTS[len(done) : len(done) + 1], lambda request: done.append(request.name))
        with pytest.raises(ValueError, match=r"^`follow` must be called once"):
            follower.start(0.001, list, done.append)
        until(lambda: len(done) == 4)
        follower.stop()
        assert (done, follower.running, follower.trouble) == (["a", "b", "c", "d"], False, None)


def test_a_refused_request_does_not_stop_others_and_other_trouble_is_told() -> None:
    follower, tried = Follower(1.0), list[str]()
    errors: dict[str, Exception] = {"a": ForgettingError("x"), "b": ValueError("x"), "c": OSError("no space left")}

    def carry_out(request: Request) -> None:
        tried.append(request.name)
        if request.name in errors:
            raise errors[request.name]

    follower.start(0.001, lambda: REQUESTS, carry_out)
    until(lambda: follower.trouble)
    assert follower.trouble == "OSError: no space left"
    assert tried[:3] == ["a", "b", "c"]
    del errors["c"]
    until(lambda: follower.trouble is None)
    follower.stop()
    assert "d" in tried


def test_it_looks_rarely_after_a_prediction_that_hung() -> None:
    follower, looks, hangs = Follower(0.02), list[float](), threading.Event()
    hangs.set()

    def keep_up() -> list[Request]:
        looks.append(time.monotonic())
        if hangs.is_set():
            raise TimeoutError("1 predictions were not over")
        return []

    follower.start(0.001, keep_up, print)
    until(lambda: len(looks) >= 3)
    hangs.clear()
    until(lambda: len(looks) >= 6)  # they come fast now, and the machine may be busy
    follower.stop()
    waits = [after - before for before, after in pairwise(looks)]
    assert waits[0] >= 0.2
    assert waits[1] >= 0.4  # twice as long
    assert follower.trouble is None
