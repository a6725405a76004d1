"""A live model with an engine: old and new weights predict side by side, and no prediction waits for an edit."""

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from asserts import assert_same_bits
from serving.engines.test_contract import ENGINES, engine
from serving.history.archives import until
from serving.live_models import X, assert_healthy, digits
from serving.test_stand_in import Slow, in_prediction, said_by, slow
from torch import Tensor, nn

from fastforget import fingerprint
from fastforget.serving import LiveModel, Prediction
from fastforget.serving.engines import CUDAGraphs, Rebuilt
from fastforget.serving.engines.engine import PinningEngine
from fastforget.serving.engines.swapped import Swapped
from fastforget.serving.gate import Gate
from fastforget.serving.replica import Serving

__all__ = ["ENGINES", "engine"]  # the fixture, for the tests below

Network = Callable[..., nn.Module]


def itself(model: nn.Module) -> nn.Module:
    return model


@contextmanager
def begun(subject: LiveModel) -> Iterator[Serving]:
    """Be inside a prediction, in another thread, that has not run its weights yet."""
    entered, leave, found = threading.Event(), threading.Event(), list[Serving]()

    def predict() -> None:
        with subject._replica.gate.shared() as serving:
            found.append(serving)
            entered.set()
            assert leave.wait(60)

    thread = threading.Thread(target=predict)
    thread.start()
    assert entered.wait(60)
    try:
        yield found[0]
    finally:
        leave.set()
        thread.join(60)


def test_a_prediction_that_began_before_ends_in_its_version(engine: Swapped, network: Network, images: Tensor) -> None:
    subject = LiveModel(network(), engine=engine, patience=60)
    before = subject(images)
    with begun(subject) as serving:
        assert subject.forget(1, level="output", samples=(images, None)).number == 1
        after = subject.predict(images)
        assert (after.version, subject.health()["inside"]) == (1, 1)
        assert not torch.equal(after.outputs, before)
        assert_same_bits(serving.run(images), before)
        health = subject.health()
        assert (health["intact"], health["written"], serving.versions[-1].number) == (True, True, 0)
    assert_same_bits(engine(images), after.outputs)
    assert_healthy(subject, 1)
    assert subject.version.seconds == 0


def test_edits_while_one_hangs(engine: Swapped, network: Network, images: Tensor) -> None:
    """Where weights are put in place of earlier ones, the edit after the next waits for it, and no prediction does."""
    subject = LiveModel(network(), engine=engine, patience=0.05)
    before = subject(images)
    with begun(subject) as serving:
        subject.forget(1, level="output", samples=(images, None))
        if engine.reuses:
            with pytest.raises(TimeoutError, match=r"^predictions of an earlier version were not over in 0.05 s$"):
                subject.revert(0)
            assert subject.predict(images).version == 1
        else:
            assert subject.revert(0).number == 2
            assert_same_bits(subject(images), before)
        assert_same_bits(serving.run(images), before)
    if engine.reuses:
        assert subject.revert(0).number == 2
    assert_same_bits(subject(images), before)
    assert_healthy(subject, 2)


def test_no_prediction_waits_behind_a_slow_one() -> None:
    """The edit ends, and is seen, while it is still inside: nothing but that can end it."""
    model, codes = slow(), digits()[1]
    subject = LiveModel(model, codes, engine=Rebuilt(itself, example=X), patience=60)
    before = subject.predict(X)
    with in_prediction(subject) as late:
        assert subject.forget(3).number == 1
        found = subject.predict(X)
        assert (found.version, late) == (1, [])
        assert subject.health()["written"]
        assert fingerprint(model) == subject.version.fingerprint
        assert_same_bits(found.outputs, said_by(model))
    assert late[0].version == 0
    assert_same_bits(late[0].outputs, said_by(digits()[0], X[:1]))
    assert_same_bits(before.outputs, said_by(digits()[0]))
    assert_healthy(subject, 1)


def test_none_is_torn_and_none_goes_back() -> None:
    model, codes, _ = digits()
    subject, stop = LiveModel(model, codes, engine=Rebuilt(itself, example=X)), threading.Event()
    seen: list[list[Prediction]] = [[] for _ in range(4)]
    errors: list[BaseException] = []

    def client(mine: list[Prediction]) -> None:
        try:
            while not stop.is_set():
                mine.append(subject.predict(X))
                assert subject.health()["intact"]
        except BaseException as error:  # noqa: BLE001 (shown below)
            errors.append(error)

    threads = [threading.Thread(target=client, args=(mine,)) for mine in seen]
    for thread in threads:
        thread.start()
    subject.forget([1, 2])
    for _ in range(10):
        subject.revert(0)
        subject.apply(subject.receipts(1)[0])
        until(lambda: errors or all(mine and mine[-1].version == subject.version.number for mine in seen))
    stop.set()
    for thread in threads:
        thread.join(60)
    assert errors == []
    answers = (said_by(digits()[0]), said_by(model))
    for mine in seen:
        assert [found.version for found in mine] == sorted(found.version for found in mine)
        for found in mine:
            assert_same_bits(found.outputs, answers[found.version % 2])


@pytest.mark.parametrize("when", ["before the engine", "before", "after"])
def test_an_interrupt_beside_the_change_of_version(when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next call has the model, the engine and the version agree."""
    model, codes, _ = digits()
    engine = Rebuilt(itself, example=X)
    subject = LiveModel(model, codes, engine=engine)
    lead, stage, calls = Gate.lead, engine.stage, itertools.count()

    def interrupted(gate: Gate[Any], place: Any) -> None:
        if when == "after":
            lead(gate, place)
        if next(calls) == 0:
            raise KeyboardInterrupt
        lead(gate, place)

    def staged(source: nn.Module) -> Callable[[], None]:
        switch = stage(source)

        def switching() -> None:
            if next(calls) == 0:
                raise KeyboardInterrupt
            switch()

        return switching

    with monkeypatch.context() as patched:
        if when == "before the engine":
            patched.setattr(engine, "stage", staged)
        else:
            patched.setattr(Gate, "lead", interrupted)
        with pytest.raises(KeyboardInterrupt):
            subject.forget(3)
    assert subject.predict(X).version == (1 if when == "after" else 0)
    assert subject.catch_up().classes == (3,)
    assert_same_bits(subject(X), said_by(model))
    assert_same_bits(engine(X), said_by(model))
    assert_healthy(subject, 1)
    assert subject.revert(0).number == 2
    assert_same_bits(subject(X), said_by(digits()[0]))


def test_what_keeps_predictions_out() -> None:
    """Graphs read the weights where they lie, as compiled models do."""
    assert not isinstance(CUDAGraphs(X), PinningEngine)
    compiled = torch.compile(nn.Linear(4, 3).eval(), backend="eager")
    weights = LiveModel(compiled)._weights  # type: ignore[arg-type, unused-ignore]
    assert not weights.lends_draft
    assert not weights.pins


def test_former_predictors_are_kept_where_a_device_may_read_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """And freed as soon as nobody is inside, which a prediction that hangs puts off to the next edit."""
    model, codes = slow(), digits()[1]
    subject = LiveModel(model, codes, engine=Rebuilt(itself, example=X), patience=0.05)
    weights = subject._weights

    def lend(predictor: Any) -> bool:  # what it does for a model on a CUDA device
        weights._lent.append(predictor)
        return True

    monkeypatch.setattr(weights, "lend", lend)
    subject.forget(3)
    assert weights._lent == []
    with in_prediction(subject):
        subject.forget(5)
        assert len(weights._lent) == 1
        Slow.leave.set()
    subject.catch_up()
    assert weights._lent == []
    assert_healthy(subject, 2)
