"""A copy answers in place of the model while an edit waits to be written: no prediction waits for a slow one."""

import copy
import itertools
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from asserts import assert_same_bits
from serving.history.archives import until
from serving.live_models import X, assert_healthy, digits, live
from torch import Tensor, nn

from fastforget import fingerprint
from fastforget.serving import LiveModel, Prediction
from fastforget.serving.gate import Gate
from fastforget.serving.stand_in import can_stand_in


class Slow(nn.Module):
    """Waits inside predictions for inputs of one sample, in the model and in its copies."""

    leave = threading.Event()
    entered = threading.Semaphore(0)

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        if len(x) == 1:
            Slow.entered.release()
            assert Slow.leave.wait(60)
        out: Tensor = self.model(x)
        return out


def plain() -> Slow:
    return Slow(digits()[0]).eval()


def slow() -> Slow:
    Slow.leave, Slow.entered = threading.Event(), threading.Semaphore(0)
    return plain()


@contextmanager
def in_prediction(subject: LiveModel) -> Iterator[list[Prediction]]:
    """Be inside a prediction of one sample, and let it go at the end."""
    found: list[Prediction] = []
    thread = threading.Thread(target=lambda: found.append(subject.predict(X[:1])))
    thread.start()
    assert Slow.entered.acquire(timeout=60)
    try:
        yield found
    finally:
        Slow.leave.set()
        thread.join(60)


def said_by(model: nn.Module, x: Tensor = X) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(x)
        return found


def test_no_prediction_waits_behind_a_slow_one() -> None:
    model, codes = slow(), digits()[1]
    subject = LiveModel(model, codes, patience=60)
    began = time.perf_counter()
    before = subject.predict(X)
    idle = time.perf_counter() - began
    with in_prediction(subject) as late:
        made: list[Any] = []
        edit = threading.Thread(target=lambda: made.append(subject.forget(3)))
        edit.start()
        longest = 0.0
        while subject.version.number == 0 or longest == 0.0:
            began = time.perf_counter()
            found = subject.predict(X)
            longest = max(longest, time.perf_counter() - began)
        assert longest < max(50 * idle, 1.0)  # the machine may be busy; to wait would take a minute
        found = subject.predict(X)
        assert (found.version, made, late) == (1, [], [])
        assert not subject.health()["written"]
        assert fingerprint(model) == subject.versions[0].fingerprint
    edit.join(60)
    assert made == [subject.version]
    assert late[0].version == 0
    assert_same_bits(late[0].outputs, said_by(digits()[0], X[:1]))
    assert_same_bits(before.outputs, said_by(digits()[0]))
    assert_same_bits(found.outputs, said_by(model))
    assert fingerprint(model) == subject.version.fingerprint
    assert_healthy(subject, 1)


def test_edits_go_on_while_a_prediction_hangs(tmp_path: Path) -> None:
    """They are made and visible; the model in the user's hands has them when it has ended and the service looks."""
    model, codes = slow(), digits()[1]
    subject = LiveModel(model, codes, archive=tmp_path / "archive", patience=0.05)
    other = LiveModel(plain(), codes, archive=tmp_path / "archive")
    with in_prediction(subject) as late:
        for cls in (3, 5):
            subject.forget(cls)
        assert subject.revert(1).number == 3
        subject.forget(7, undo="never")
        assert other.catch_up() == subject.version
        found = subject.predict(X)
        assert found.version == 4
        assert_same_bits(found.outputs, other(X))
        health = subject.health()
        assert (health["intact"], health["written"], health["classes"]) == (True, False, [3, 7])
        assert fingerprint(model) == subject.versions[0].fingerprint
        with pytest.raises(ValueError, match="`cls`"):
            subject.forget(99)
        assert not subject.health()["written"]
    assert late[0].version == 0
    assert_same_bits(late[0].outputs, said_by(digits()[0], X[:1]))
    assert subject.catch_up().number == 4
    assert fingerprint(model) == subject.version.fingerprint
    assert_same_bits(said_by(model), other(X))
    assert_healthy(subject, 4)
    assert_healthy(other, 4)


def test_whoever_follows_writes_it(tmp_path: Path) -> None:
    model, codes = slow(), digits()[1]
    one = LiveModel(plain(), codes, archive=tmp_path / "archive")
    subject = LiveModel(model, codes, archive=tmp_path / "archive", patience=0.05)
    subject.follow(every=0.01)
    with in_prediction(subject):
        one.forget(3)
        until(lambda: subject.version.number == 1)
        assert (subject.predict(X).version, subject.health()["trouble"]) == (1, None)
        assert not subject.health()["written"]
    until(lambda: subject.health()["written"])
    subject.close()
    assert fingerprint(model) == one.version.fingerprint


def test_a_prediction_that_hangs_in_the_copy() -> None:
    """The next edit is made on another copy, so that it sees one version."""
    model, codes = slow(), digits()[1]
    subject = LiveModel(model, codes, patience=0.05)
    with in_prediction(subject):
        subject.forget(3)
        first = subject._weights.draft
        Slow.leave, leave = threading.Event(), Slow.leave
        with in_prediction(subject) as late:
            leave.set()
            until(lambda: subject.catch_up() and subject.health()["written"])
            assert subject._weights.draft is not first
            subject.forget(5)
            gone = weakref.ref(first)
            del first
        assert late[0].version == 1
        one = plain()
        subject.receipts(1)[0].apply(one)
        assert_same_bits(late[0].outputs, said_by(one, X[:1]))
    subject.catch_up()
    assert gone() is None
    assert_healthy(subject, 2)


def test_many_threads_see_whole_versions_that_never_go_back() -> None:
    model, codes, _ = digits()
    subject, stop = LiveModel(model, codes), threading.Event()
    seen: list[list[Prediction]] = [[] for _ in range(6)]
    errors: list[BaseException] = []

    def client(mine: list[Prediction]) -> None:
        try:
            while not stop.is_set():
                mine.append(subject.predict(X))
        except BaseException as error:  # noqa: BLE001 (shown below)
            errors.append(error)

    threads = [threading.Thread(target=client, args=(mine,)) for mine in seen]
    for thread in threads:
        thread.start()
    subject.forget([1, 2])
    for _ in range(10):
        subject.revert(0)
        subject.apply(subject.receipts(1)[0])
        assert fingerprint(model) == subject.version.fingerprint  # on return, in the user's hands
    stop.set()
    for thread in threads:
        thread.join(60)
    assert errors == []
    edited = digits()[0]
    subject.receipts(1)[0].apply(edited)
    answers = (said_by(digits()[0]), said_by(edited))
    for mine in seen:
        assert [found.version for found in mine] == sorted(found.version for found in mine)
        for found in mine:
            assert_same_bits(found.outputs, answers[found.version % 2])
    assert len({found.version for mine in seen for found in mine}) > 10
    assert all(version.seconds == 0 for version in subject.versions)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("archived", [False, True])
def test_an_interrupt_beside_the_change_of_version(
    archived: bool, when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next call finds the model in a version, and writes what is unwritten."""
    model, codes, _ = digits()
    subject = LiveModel(model, codes, archive=tmp_path / "archive" if archived else None)
    lead, calls = Gate.lead, itertools.count()

    def interrupted(gate: Gate[Any], place: Any) -> None:
        if when == "after":
            lead(gate, place)
        if next(calls) == 0:
            raise KeyboardInterrupt
        lead(gate, place)

    with monkeypatch.context() as patched:
        patched.setattr(Gate, "lead", interrupted)
        with pytest.raises(KeyboardInterrupt):
            subject.forget(3)
    assert subject.predict(X).version == (1 if when == "after" else 0)
    assert subject.catch_up().classes == (3,)
    assert fingerprint(model) == subject.version.fingerprint
    assert_healthy(subject, 1)
    assert subject.forget(4).number == 2
    assert subject.revert(0).number == 3
    assert_same_bits(subject(X), said_by(digits()[0]))
    assert_healthy(subject, 3)


def test_a_model_that_began_to_keep_values_meanwhile(caplog: pytest.LogCaptureFixture) -> None:
    """It cannot be written: the copy goes on answering, in the new version."""

    model, codes = slow(), digits()[1]
    subject = LiveModel(model, codes, patience=60)
    with in_prediction(subject):
        edit = threading.Thread(target=lambda: subject.forget(3))
        edit.start()
        until(lambda: subject.version.number == 1)
        name = next(iter(subject.receipts(1)[0].edits))
        owner = model.get_submodule(name.rpartition(".")[0])
        owner.kept = owner.weight.detach().clone()  # type: ignore[assignment, operator, union-attr]
    edit.join(60)
    assert "cannot be written into the model's own storage" in caplog.text
    assert (subject.predict(X).version, subject.health()["intact"], subject.health()["written"]) == (1, True, False)
    owner.kept = None  # type: ignore[assignment]
    subject.catch_up()
    assert_healthy(subject, 1)


def holding_in_hook() -> nn.Module:
    model = digits()[0]
    model.register_forward_pre_hook(lambda *_: model.training)
    return model


def with_shared_view() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3)).eval()
    model.turned = model[0].weight.detach().t()  # type: ignore[assignment, operator]
    return model


def with_weak_reference() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 3)).eval()
    model[0].owner = weakref.ref(model)  # type: ignore[assignment]
    return model


def compiled_in_part() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3)).eval()
    model[0].compile(backend="eager")
    return model


@pytest.mark.parametrize("build", [holding_in_hook, with_shared_view, with_weak_reference, compiled_in_part])
def test_models_in_whose_place_no_copy_answers(build: Callable[[], nn.Module]) -> None:
    """A copy would answer with weights of the model, or have to be compiled."""
    model = build()
    assert not can_stand_in(model, copy.deepcopy(model))
    subject = LiveModel(model)
    assert not subject._weights.lends_draft


def test_models_in_whose_place_a_copy_answers() -> None:
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).eval()
    tied[1].weight = tied[0].weight
    seen: list[int] = []
    hooked = digits()[0]
    hooked.register_forward_hook(lambda *_: seen.append(1))
    for model in (tied, hooked, nn.LSTM(3, 4).eval(), nn.TransformerEncoderLayer(8, 2).eval(), digits()[0]):
        assert can_stand_in(model, copy.deepcopy(model))
    model = live()
    assert model._weights.lends_draft
