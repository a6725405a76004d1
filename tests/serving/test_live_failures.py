"""An edit that fails or waits leaves a live model as it was."""

import itertools
import threading
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from serving.live_models import X, assert_healthy, digits, live
from torch import Tensor, nn

from fastforget import ForgettingError
from fastforget.serving import LiveModel, Prediction, replica


class Slow(nn.Module):
    """Waits inside a prediction."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.entered, self.leave = threading.Event(), threading.Event()

    def __deepcopy__(self, memo: dict[int, Any]) -> "Slow":
        found = Slow(digits()[0])
        found.leave.set()
        return found.eval()

    def forward(self, x: Tensor) -> Tensor:
        self.entered.set()
        self.leave.wait(10)
        return self.model(x)


def test_a_prediction_that_hangs_stops_an_edit_that_must_be_alone_not_the_service() -> None:
    model, codes, _ = digits()
    slow = Slow(model).eval()
    subject = LiveModel(nn.DataParallel(slow).eval(), codes, patience=0.05)
    seen: list[Prediction] = []
    thread = threading.Thread(target=lambda: seen.append(subject.predict(X)))
    thread.start()
    slow.entered.wait(10)
    with pytest.raises(TimeoutError, match=r"^1 predictions were not over in 0.05 s$"):
        subject.forget(3)
    slow.leave.set()
    thread.join(10)
    assert seen[0].version == 0
    assert_healthy(subject, 0)
    assert subject.forget(3).number == 1  # the copy is what the model is
    assert_healthy(subject, 1)


def test_two_edits_at_once() -> None:
    """The second one waits, and gives up; health does not mind."""
    subject = live(patience=0.05)
    with subject._editor._lock:
        assert (subject.health()["editing"], subject.health()["intact"]) == (True, True)
        assert subject.predict(X).version == 0
        with pytest.raises(ForgettingError, match=r"^another edit is being made; the model is unchanged$"):
            subject.forget(3)
    assert_healthy(subject, 0)


def test_no_edit_from_inside_a_prediction() -> None:
    subject = live()
    with subject._replica.gate.shared(), pytest.raises(TimeoutError, match=r"^an edit cannot be made from inside"):
        subject.forget(3)
    assert_healthy(subject, 0)


class Counting(nn.Module):
    """Has a buffer that no state_dict holds, and tied weights."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.again = model
        self.register_buffer("scale", torch.ones(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.model(x) * self.scale
        return out


@pytest.mark.parametrize("meddle", ["buffer", "mode", "weight"])
def test_whatever_a_failed_edit_did_to_the_copy_is_gone(meddle: str) -> None:
    model, codes, _ = digits()
    fails = True

    def audit(copied: nn.Module) -> dict[str, Any]:
        if fails:
            if meddle == "buffer":
                copied.scale.add_(1)  # type: ignore[operator, union-attr]
            elif meddle == "mode":
                copied.train()
            else:
                next(copied.parameters()).data.add_(1)
        return {}

    subject = LiveModel(Counting(model).eval(), codes, audit=audit)
    with pytest.raises((ForgettingError, ValueError), match=r"audit|eval mode"):
        subject.forget(3)
    assert_healthy(subject, 0)
    fails = False
    made = subject.forget(3)
    other = LiveModel(Counting(digits()[0]).eval(), codes)
    assert other.forget(3).fingerprint == made.fingerprint
    assert_healthy(subject, 1)


def test_an_edit_that_fails_leaves_model_and_copy_as_they_were() -> None:
    subject = live()
    with pytest.raises(ValueError, match="cls"):
        subject.forget(99)
    x, y = digits()[2].x_test[:8], digits()[2].y_test[:8]
    with pytest.raises(ForgettingError, match="no step that forgets"):
        subject.forget(3, floor=(x, (y + 1) % 10, 0.9))
    assert_healthy(subject, 0)
    assert subject.forget(3).fingerprint == live().forget(3).fingerprint


def test_weights_that_somebody_else_changed() -> None:
    model, codes, _ = digits()
    subject = LiveModel(model, codes)
    with torch.no_grad():
        next(model.parameters()).add_(1)
    assert subject.health()["intact"] is False
    with pytest.raises(ForgettingError, match=r"^somebody else changed the weights since version 0 was made$"):
        subject.forget(3)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError, torch.AcceleratorError])
def test_want_of_memory_is_no_reason_to_refuse_a_request(error: type[Exception]) -> None:
    model, codes, _ = digits()
    raised: list[int] = []

    def busy(module: nn.Module, _: Any) -> None:
        if module is not model and len(raised) < 3:  # the copy on which an edit is worked out
            raised.append(1)
            raise error("no room beside other programs")

    model[0].register_forward_pre_hook(lambda *_: busy(subject._weights.draft, _))  # type: ignore[index, operator]
    subject = LiveModel(model, codes)
    assert subject.device == next(model.parameters()).device
    subject.ask(3, request="first")
    for _ in range(3):
        with pytest.raises(error):
            subject.forget(3, request="first")
        assert_healthy(subject, 0)
        assert subject.requests()[0].state == "waiting"
    assert subject.forget(3, request="first").number == 1
    assert subject.requests()[0].state == "done"


@pytest.mark.parametrize("place", [1, 2])
@pytest.mark.parametrize("archived", [False, True])
def test_an_interrupt_beside_the_change_of_weights(
    archived: bool, place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Just before it or just after it: the edit is entered, and the next call finds the model in a version."""
    model, codes, _ = digits()
    subject = LiveModel(nn.DataParallel(model).eval(), codes, archive=tmp_path / "archive" if archived else None)
    calls = itertools.count(1)

    def interrupting() -> float:
        if next(calls) == place:
            raise KeyboardInterrupt
        return 0.0

    with monkeypatch.context() as patched:
        patched.setattr(replica, "time", types.SimpleNamespace(perf_counter=interrupting))
        with pytest.raises(KeyboardInterrupt):
            subject.forget(3)
    assert subject.catch_up().classes == (3,)
    assert_healthy(subject, 1)
    assert subject.forget(4).number == 2
    assert subject.revert(0).number == 3
    assert_healthy(subject, 3)
