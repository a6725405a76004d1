"""A live model predicts in many threads while classes are forgotten from it."""

import copy
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import known_codes
import pytest
import torch
import torch._inductor.config as inductor
from asserts import assert_same_bits
from known_codes import refused
from serving.live_models import X, assert_healthy, digits, live
from torch import Tensor, nn

from fastforget import ForgettingError, fingerprint, fisher_diagonal, learn_to_unlearn, one_shot
from fastforget.classifier.losses import ScaledCrossEntropy
from fastforget.serving import LiveModel, Prediction


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
        while len(found) < count and not errors:
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


def test_a_class_that_samples_exclude_counts_as_forgotten() -> None:
    """By codes it may have been forgotten before: its samples then take it deeper. The next request knows."""
    model, codes, data = digits()
    images = list(zip(data.x_train.split(50), data.y_train.split(50), strict=True))
    remain = [(x[y != 3], y[y != 3]) for x, y in images[:6]]
    forget = [(data.x_train[data.y_train == 3][:40], torch.full((40,), 3))]
    for earlier in ([], [3], [5, 3]):
        edited, subject = copy.deepcopy(model), live()
        for number, cls in enumerate(earlier):
            one_shot(edited, codes, cls, forgotten=earlier[:number])
            subject.forget(cls)
        receipt = learn_to_unlearn(edited, forget, remain, steps=2)
        made = subject.apply(receipt)
        assert (receipt.classes, made.classes, made.claims) == ((3,), tuple(earlier) or (3,), ("disconnected",))
        assert subject.forget(7).classes == (*(earlier or [3]), 7)
        assert subject.revert(len(earlier)).classes == tuple(earlier)


def test_classes_that_were_forgotten_before(tmp_path: Path) -> None:
    """Each version knows them; whichever version of an archive a process starts with."""
    model, codes, _ = digits()
    one_shot(model, codes, 3)
    first = copy.deepcopy(model)
    subject = LiveModel(model, codes, archive=tmp_path, forgotten=3)
    assert subject.version.classes == (3,)
    assert subject.forget(5).classes == (3, 5)
    assert [receipt.forgotten for receipt in subject.receipts(1)] == [(3,)]
    later = copy.deepcopy(model)
    for start, forgotten in ((first, [3]), (later, [3, 5]), (later, [5, 3])):
        other = LiveModel(copy.deepcopy(start), codes, archive=tmp_path, forgotten=forgotten)
        assert [version.classes for version in other.versions] == [(3,), (3, 5)]
        assert_healthy(other, 1)
    with pytest.raises(ValueError, match=r"^`forgotten` must lie in \[0, 10\), got \[10\]$"):
        LiveModel(first, codes, forgotten=10)


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
    model, codes = known_codes.model_with_codes(known_codes.mlp)
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
    with pytest.raises(ValueError, match=r"^there must be `codes` to forget by: .*, pass `samples`, or `apply` a rec"):
        subject.forget(3)
    assert_healthy(subject, 0)


@pytest.mark.parametrize("codes", [False, True])
def test_samples_level_and_depth_reach_one_shot(codes: bool) -> None:
    model, known, data = digits()
    subject = LiveModel(digits()[0], known if codes else None)
    settings: dict[str, Any] = {"level": "output", "samples": (data.x_train[:64], None), "output_depth": 9.0}
    receipt = one_shot(model, known if codes else None, 3, **settings)
    made = subject.forget(3, **settings)
    assert (made.fingerprint, made.claims, made.outcome) == (receipt.after, ("disconnected",), receipt.outcome)
    assert subject.receipts(1)[0].evidence["output_depth_goal"] == 9.0
    assert_same_bits(subject(X), model(X))
    assert subject.revert(0).outcome == ""
    if codes:
        assert subject.forget(3, output_row=False).outcome == "neither silenced nor disconnected"


def test_a_callers_inference_mode_does_not_hinder_others() -> None:
    """Neither a service that was started in it, nor an edit that failed in it, spoils the draft of the next edits."""
    model, codes, _ = digits()
    with torch.inference_mode():
        subject = LiveModel(model, codes)
        with pytest.raises(ValueError, match="33"):
            subject.forget(33)
    assert subject.forget(4).number == 1
    with torch.inference_mode():
        assert subject.forget(3).number == 2
        subject.revert(1)
    subject.forget(5)
    assert not any(parameter.is_inference() for parameter in subject._weights.draft.parameters())
    assert_healthy(subject, 4)
