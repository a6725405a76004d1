"""Many predictions at a time, or one edit."""

import threading
import time

import pytest

from fastforget.serving.gate import Gate


def test_predictions_are_inside_together() -> None:
    gate, together = Gate[str]("first"), threading.Barrier(3, timeout=10)

    def predict() -> None:
        with gate.shared():
            together.wait()

    threads = [threading.Thread(target=predict) for _ in range(2)]
    for thread in threads:
        thread.start()
    together.wait()
    for thread in threads:
        thread.join()
    assert gate.inside == 0


def test_an_edit_is_alone_and_new_predictions_wait_for_it() -> None:
    gate, seen, entered, leave = Gate[str]("first"), list[str](), threading.Event(), threading.Event()

    def first() -> None:
        with gate.shared():
            entered.set()
            leave.wait(10)
            seen.append("first")

    def edit() -> None:
        with gate.alone(10):
            seen.append("edit")
            time.sleep(0.05)
            seen.append("end")

    def second() -> None:
        with gate.shared():
            seen.append("second")

    threads = [threading.Thread(target=first)]
    threads[0].start()
    entered.wait(10)
    threads.append(threading.Thread(target=edit))
    threads[1].start()
    while not gate._closed:
        time.sleep(0.001)
    threads.append(threading.Thread(target=second))
    threads[2].start()
    time.sleep(0.05)
    assert seen == []
    leave.set()
    for thread in threads:
        thread.join(10)
    assert seen == ["first", "edit", "end", "second"]


def test_an_edit_gives_up_and_lets_everybody_in() -> None:
    gate, entered, leave = Gate[str]("first"), threading.Event(), threading.Event()

    def hang() -> None:
        with gate.shared():
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=hang)
    thread.start()
    entered.wait(10)
    with pytest.raises(TimeoutError, match=r"^1 predictions were not over in 0.05 s$"), gate.alone(0.05):
        pass
    with gate.shared():
        assert gate.inside == 2
    leave.set()
    thread.join(10)
    with gate.alone(0.05):
        assert gate.inside == 0


def test_one_edit_at_a_time() -> None:
    gate = Gate[str]("first")
    with gate.alone(1):
        found: list[BaseException] = []

        def other() -> None:
            try:
                with gate.alone(0.05):
                    pass
            except TimeoutError as error:
                found.append(error)

        thread = threading.Thread(target=other)
        thread.start()
        thread.join(10)
        assert [str(error) for error in found] == ["another edit was not over in 0.05 s"]


def test_a_prediction_within_a_prediction_while_an_edit_waits() -> None:
    """It goes through: waiting for the edit, which waits for the outer one, it would never end."""
    gate, done = Gate[str]("first"), threading.Event()

    def edit() -> None:
        with gate.alone(10):
            done.set()

    with gate.shared():
        thread = threading.Thread(target=edit)
        thread.start()
        while not gate._closed:
            time.sleep(0.001)
        with gate.shared():
            assert gate.inside == 1
        with pytest.raises(TimeoutError, match="from inside a prediction"), gate.alone(10):
            pass
        assert not done.is_set()
    thread.join(10)
    assert done.is_set()


def test_an_error_inside_opens_it_again() -> None:
    gate = Gate[str]("first")
    for entrance in (gate.shared, lambda: gate.alone(1)):
        with pytest.raises(KeyError), entrance():
            raise KeyError
    with gate.alone(1):
        assert gate.inside == 0
