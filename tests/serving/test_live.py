"""A model that predicts in many threads while classes are forgotten from it."""

import copy
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import known_codes
import pytest
import torch
import torch._inductor.config as inductor
from asserts import assert_same_bits
from known_codes import refused
from torch import Tensor, nn

from fastforget import ForgettingError, MnemonicCodes, fingerprint, fisher_diagonal, learn_to_unlearn, one_shot
from fastforget.demo.data import Dataset
from fastforget.losses import ScaledCrossEntropy
from fastforget.serving import LiveModel, Prediction

X = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(3))


def digits() -> tuple[nn.Module, MnemonicCodes, Dataset]:
    """A network of one's own."""
    model, codes, data = known_codes.digits()
    return copy.deepcopy(model), codes, data


def live(**settings: Any) -> LiveModel:
    model, codes, _ = digits()
    return LiveModel(model, codes, **settings)


@contextmanager
def clients(predict: Callable[[], Prediction], count: int = 4) -> Iterator[list[Prediction]]:
    """Predict from many threads meanwhile."""
    found: list[Prediction] = []
    errors: list[BaseException] = []
    stop = threading.Event()

    def run() -> None:
        try:
            while not stop.is_set():
                found.append(predict())
                time.sleep(0.0005)  # a device answers faster than answers can be compared
        except BaseException as error:  # noqa: BLE001 (shown below)
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        while len(found) < count:
            time.sleep(0.001)
        yield found
        seen = len(found)
        while len(found) < seen + count and not errors:
            time.sleep(0.001)
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    assert errors == []


def answers(subject: LiveModel) -> dict[int, Tensor]:
    """What each version says, from a model of its own."""
    found = {}
    for version in subject.versions:
        edited, _, _ = digits()
        for receipt in subject.receipts(version.number):
            receipt.apply(edited)
        assert fingerprint(edited) == version.fingerprint
        with torch.no_grad():
            found[version.number] = edited(X)
    return found


@pytest.mark.parametrize("compiled", [False, True])
def test_no_prediction_is_torn(compiled: bool) -> None:
    """Every answer is that of the version it names, to the bit, however many edits there are meanwhile."""
    model, codes, _ = digits()
    subject = LiveModel(torch.compile(model, backend="eager") if compiled else model, codes)  # type: ignore[arg-type]
    with clients(lambda: subject.predict(X)) as seen:
        subject.forget(3)
        subject.forget([5, 7])
        for _ in range(20):
            subject.revert(0)
            subject.apply(subject.receipts(1)[0])
    known = answers(subject)
    assert len(known) == 43
    for prediction in seen:
        assert_same_bits(prediction.outputs, known[prediction.version])
    assert len({prediction.version for prediction in seen}) > 3
    assert not seen[0].outputs.requires_grad


def test_it_is_what_one_shot_does() -> None:
    subject = live()
    model, codes, _ = digits()
    first, second = one_shot(model, codes, 3), one_shot(model, codes, 5, forgotten=3)
    subject.forget(3)
    made = subject.forget(5)
    assert made is subject.version
    assert (made.number, made.classes, made.fingerprint) == (2, (3, 5), fingerprint(model))
    assert [receipt.after for receipt in subject.receipts(2)] == [first.after, second.after]
    assert torch.equal(subject(X), model(X))


def test_replicas_reach_the_same_version_by_receipts() -> None:
    one, other = live(), live()
    made = one.forget(2)
    found = other.apply(one.receipts(1)[0])
    assert (found.fingerprint, found.classes, found.number) == (made.fingerprint, (2,), 1)
    with pytest.raises(ValueError, match=r"^`model` must be the one this edit was made on"):
        other.apply(one.receipts(1)[0])
    assert_healthy(other, 1)


def test_samples_are_forgotten_by_receipts() -> None:
    """Whole parameters change."""
    model, _, data = digits()
    subject = live()
    batches = list(zip(data.x_train.split(50), data.y_train.split(50), strict=True))
    receipt = learn_to_unlearn(model, batches[:1], batches[1:4], support="random", target="unseen", steps=2)
    subject.apply(receipt)
    assert torch.equal(subject(X), model(X))
    subject.forget(4)
    subject.revert(0)
    assert torch.equal(subject(X), digits()[0](X))


def assert_healthy(subject: LiveModel, number: int) -> None:
    version = subject.version
    assert subject.health() == {
        "version": number,
        "fingerprint": version.fingerprint,
        "classes": list(version.classes),
        "inside": 0,
        "editing": False,
        "intact": True,
        "trouble": None,
    }


def test_ways_back() -> None:
    subject = live()
    before = subject(X)
    for cls in (1, 2, 3):
        subject.forget(cls)
    after = subject.predict(X)
    back = subject.revert(1)
    assert (back.number, back.classes, back.fingerprint) == (4, (1,), subject.versions[1].fingerprint)
    assert torch.equal(subject.revert(0) and subject(X), before)
    with pytest.raises(ValueError, match=r"^version 3 has edits that version 5 has not: apply their receipts$"):
        subject.revert(3)
    for receipt in subject.receipts(3):
        subject.apply(receipt)
    assert torch.equal(subject(X), after.outputs)
    assert subject.version.fingerprint == subject.versions[3].fingerprint
    assert_healthy(subject, 8)


def test_no_way_back_where_nothing_was_kept() -> None:
    subject = live()
    subject.forget(1, undo="never")
    subject.forget(2)
    assert subject.revert(1).classes == (1,)
    with pytest.raises(ValueError, match=r"^edit 1 cannot be gone back on: its old values are not kept$"):
        subject.revert(0)
    assert_healthy(subject, 3)


def test_no_way_back_when_time_is_over() -> None:
    subject = live(undo="expire:1s")
    subject.forget(1)
    assert subject.receipts(1)[0].reversible
    time.sleep(1.1)
    with pytest.raises(ValueError, match=r"^edit 1 cannot be gone back on"):
        subject.revert(0)
    assert not subject.receipts(1)[0].reversible
    subject.forget(2, undo="keep")
    assert subject.revert(1).classes == (1,)


@pytest.mark.parametrize("number", [4, -1, True, "1", 1.0])
def test_versions_that_are_not_there(number: Any) -> None:
    subject = live()
    with pytest.raises(ValueError, match=r"^`number` must be that of a version, 0 to 0, got "):
        subject.revert(number)
    assert_healthy(subject, 0)


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


def test_a_prediction_that_hangs_stops_the_edit_not_the_service() -> None:
    model, codes, _ = digits()
    slow = Slow(model).eval()
    subject = LiveModel(slow, codes, patience=0.05)
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
    with subject._editing:
        assert (subject.health()["editing"], subject.health()["intact"]) == (True, True)
        assert subject.predict(X).version == 0
        with pytest.raises(ForgettingError, match=r"^another edit is being made; the model is unchanged$"):
            subject.forget(3)
    assert_healthy(subject, 0)


def test_no_edit_from_inside_a_prediction() -> None:
    subject = live()
    with subject._gate.shared(), pytest.raises(TimeoutError, match=r"^an edit cannot be made from inside"):
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


def test_models_that_it_refuses() -> None:
    model, codes, _ = digits()
    with pytest.warns(DeprecationWarning, match="trace"):
        script = torch.jit.trace(model, X)
    with pytest.raises(TypeError, match="got a TorchScript module"):
        LiveModel(script, codes)
    with pytest.raises(TypeError, match=r"^`model` must be a torch.nn.Module, got function$"):
        LiveModel(lambda x: x, codes)  # type: ignore[arg-type]
    for patience in (0, True, float("nan"), float("inf"), 1e300):
        with refused(model, ValueError, "^`patience` must be a positive number of seconds, at most 1000000, got "):
            LiveModel(model, codes, patience=patience)
        with pytest.raises(ValueError, match=r"^`every` must be a positive number of seconds"):
            live().follow(every=patience)
    graphed = nn.Sequential(nn.Linear(2, 2)).eval()
    graphed[0].forward = lambda x: x
    with refused(graphed, ValueError, "^module `0` must have the forward of its class: with one of its own, as that "):
        LiveModel(graphed)
    with torch.inference_mode():
        made = nn.Linear(2, 2).eval()
    with pytest.raises(ValueError, match=r"^parameter `weight` must be a normal tensor, got one made under torch.inf"):
        LiveModel(made)
    with inductor.patch(freezing=True), pytest.raises(ValueError, match=r"freezing it holds them as constants"):
        LiveModel(torch.compile(model, backend="eager"), codes)  # type: ignore[arg-type]
    LiveModel(model, codes)
    with pytest.raises(ValueError, match=r"^`model` must be in eval mode"):
        LiveModel(model.train(), codes)


@pytest.mark.parametrize("part", ["all", "all in place", "layer", "layer in place", "partial forward"])
def test_models_compiled_in_part(part: str) -> None:
    model, codes = known_codes.knowing(known_codes.mlp)
    plain = copy.deepcopy(model)
    if part == "all":
        served: Any = torch.compile(model, backend="eager")
    elif part == "layer":
        model[0] = torch.compile(model[0], backend="eager")  # type: ignore[index]
    elif part == "partial forward":  # as libraries that hook into modules do
        model[0].forward = partial(nn.Linear.forward, model[0])  # type: ignore[index]
    else:
        (model if part == "all in place" else model[0]).compile(backend="eager")  # type: ignore[operator, index]
    subject = LiveModel(served if part == "all" else model, codes)
    one_shot(plain, codes, 2)
    before = subject(codes.inputs)
    assert subject.forget(2).number == 1
    with torch.no_grad():
        assert_same_bits(subject(codes.inputs), plain(codes.inputs))
    subject.revert(0)
    assert_same_bits(subject(codes.inputs), before)


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


def test_a_kept_fisher_is_that_of_the_version() -> None:
    """Brought up to date by an edit, and not by one that fails."""
    model, codes, _ = digits()
    loss = ScaledCrossEntropy(1e3)
    kept = fisher_diagonal(model, codes.inputs, codes.labels, loss=loss, reduction="sum")
    known = fisher_diagonal(model, codes.inputs, codes.labels, loss=loss, reduction="sum")
    wanted = [False]

    def audit(_: nn.Module) -> dict[str, Any]:
        if wanted[0]:
            return {}
        raise ForgettingError("not good enough")

    subject = LiveModel(model, codes, audit=audit)
    with pytest.raises(ForgettingError, match="not good enough"):
        subject.forget(3, fisher=kept, update=True)
    for name, value in known.items():
        assert_same_bits(kept[name], value)
    assert (kept.model, kept.samples, float(kept.weight)) == (known.model, known.samples, float(known.weight))
    assert_same_bits(kept.losses, known.losses)
    wanted[0] = True
    subject.forget(3, fisher=kept, update=True)
    assert kept.model == subject.version.fingerprint
    assert subject.forget(5, fisher=kept, update=True).classes == (3, 5)
    with pytest.raises(TypeError, match="`fisher`"):
        subject.forget(7, fisher=3, update=True)


def test_without_codes() -> None:
    subject = LiveModel(digits()[0])
    with pytest.raises(ValueError, match=r"^there must be `codes` to forget by"):
        subject.forget(3)
    assert_healthy(subject, 0)
