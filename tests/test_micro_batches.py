"""`one_shot(batch_size=...)`: the same edit, from so many codes at a time, in the memory that so many take."""

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from asserts import assert_close, assert_same_bits
from far import device, far, near
from known_codes import CLASSES, TwoInputs, assert_holds, contents, convnet, edits_values_only, knowing, mlp, refused
from test_kept_fisher import Fragile, keep, positions
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from fastforget import (
    FisherDiagonal,
    MnemonicCodes,
    Receipt,
    UnrecognisedCodesError,
    fingerprint,
    fisher_diagonal,
    one_shot,
)
from fastforget.batch import split_samples
from fastforget.forgetting.micro_batches import gather_logits, mean_fisher

RHO = 0.1


REQUESTS: dict[str, dict[str, Any]] = {
    "natural": {"cls": 1},
    "more parameters": {"cls": 1, "rho": 0.01, "spill": 0.5},
    "several classes": {"cls": [0, 3]},
    "after another": {"cls": 2, "forgotten": 0},
    "paper": {"cls": 1, "rule": "paper"},
    "floor": {"cls": 1, "floor": 0.5},
    "kept": {"cls": 1, "fisher": True},
    "kept, updated": {"cls": 1, "fisher": True, "update": True},
}


def request(name: str, model: nn.Module, codes: MnemonicCodes) -> dict[str, Any]:
    """The settings, with a sum over the codes and samples for the floor where they belong to them."""
    settings = {"rho": RHO} | REQUESTS[name]
    if "floor" in settings:
        codes = codes.to(next(model.parameters()).dtype)
        settings["floor"] = (codes.inputs, codes.labels, settings["floor"])
    if "fisher" in settings:
        settings["fisher"] = keep(model, codes)
    return settings


def edited(name: str, model: nn.Module, codes: MnemonicCodes, batch_size: int | None) -> tuple[nn.Module, Receipt]:
    model = copy.deepcopy(model)
    return model, one_shot(model, codes, **request(name, model, codes), batch_size=batch_size)


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_same_edit(name: str, batch_size: int) -> None:
    """In float64, and of parameters that have no ties: there nothing is a matter of rounding."""
    model, codes = knowing(mlp, per_class=3)
    model.double()
    (whole, full), (parts, receipt) = (edited(name, model, codes, size) for size in (None, batch_size))
    assert positions(receipt) == positions(full)
    assert receipt.alpha == pytest.approx(full.alpha, rel=1e-6)
    assert receipt.evidence == pytest.approx(full.evidence, rel=1e-6)
    for key, value in contents(whole).items():
        assert_close(contents(parts)[key], value, 1e-8, key)


@pytest.mark.parametrize("named", [False, True])
def test_inputs_of_several_tensors(named: bool) -> None:
    model, codes = knowing(TwoInputs, named=named)
    model.double()
    whole, parts = (edited("natural", model, codes, size)[0] for size in (None, 3))
    for key, value in contents(whole).items():
        assert_close(contents(parts)[key], value, 1e-8, key)


@pytest.mark.parametrize("name", REQUESTS)
def test_the_same_bits_where_all_fit(name: str) -> None:
    model, codes = knowing(convnet)
    whole, parts = (edited(name, model, codes, size)[0] for size in (None, len(codes.labels)))
    assert_holds(parts, contents(whole))


@pytest.mark.parametrize("name", REQUESTS)
def test_the_same_bits_twice(name: str) -> None:
    model, codes = knowing(convnet)
    first, second = (edited(name, model, codes, 3)[0] for _ in range(2))
    assert_holds(second, contents(first))


@pytest.mark.parametrize("name", REQUESTS)
def test_no_forward_sees_more(name: str) -> None:
    model, codes = knowing(convnet, per_class=4)
    settings, sizes = request(name, model, codes), list[int]()
    model.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    with edits_values_only(model):
        one_shot(model, codes, **settings, batch_size=3)
    assert max(sizes) == 3


@pytest.mark.parametrize("name", ["natural", "paper"])
def test_on_another_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bits; the host waits twice for each of two micro-batches of the other codes, and for their mean."""
    model, codes = knowing(convnet)
    expected, waited = contents(edited(name, model, codes, 3)[0]), list[int]()
    for batch_size in (None, 3):
        distant = far(copy.deepcopy(model))
        with device(monkeypatch) as waits:
            one_shot(distant, codes, **request(name, model, codes), batch_size=batch_size)
        waited.append(len(waits))
    for key, parameter in distant.named_parameters():
        assert_same_bits(near(parameter), expected[key])
    assert waited[1] - waited[0] == 2 * 2 + 2


# A kept sum


def kept_in_batches(model: nn.Module, codes: MnemonicCodes, size: int) -> FisherDiagonal:
    total: FisherDiagonal | None = None
    for inputs, labels in split_samples(codes.inputs, codes.labels, len(codes.labels), size):
        total = fisher_diagonal(model, inputs, labels, reduction="sum", into=total)
    assert total is not None
    return total


def test_requests_one_after_another_with_a_kept_sum() -> None:
    """The sum is made, used and updated in micro-batches, and serves the next request."""
    model, codes = knowing(convnet, per_class=3)
    model.double()
    codes = codes.to(torch.float64)
    other = copy.deepcopy(model)
    whole, parts = keep(other, codes), kept_in_batches(model, codes, 5)
    for cls, forgotten in ((1, []), (3, [1])):
        settings: dict[str, Any] = {"forgotten": forgotten, "rho": RHO, "update": True}
        one_shot(other, codes, cls, fisher=whole, **settings)
        one_shot(model, codes, cls, fisher=parts, batch_size=2, **settings)
        for key, value in contents(other).items():
            assert_close(contents(model)[key], value, 1e-8, key)
        assert parts.model == fingerprint(model)
        assert (parts.samples, len(parts.losses)) == (whole.samples, whole.samples)
        assert_close(parts.losses, whole.losses, 1e-8)
        for key, value in whole.items():
            assert_close(parts[key], value, 1e-8, key)


# Memory


class Wide(nn.Module):
    """Holds 64 KiB per sample between two layers of a few parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.spread, self.head = nn.Conv1d(1, 16, 9, padding=4), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.spread(x[:, None].repeat_interleave(128, 2)))
        return self.head(hidden.view(len(x), 16, 8, -1).mean(3).max(2).values)


@cache
def wide(per_class: int) -> tuple[nn.Module, MnemonicCodes]:
    codes = MnemonicCodes.generate(CLASSES, (8,), per_class=1)
    codes = MnemonicCodes.from_tensors(codes.tensor.repeat(1, per_class, 1))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Wide().eval()
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    for _ in range(200):
        optimizer.zero_grad()
        F.cross_entropy(model(codes.inputs), codes.labels).backward()
        optimizer.step()
    optimizer.zero_grad()
    return model, codes


def peak(call: Callable[[], Any]) -> int:
    """The most that is allocated at a time for tensors during a call, beyond what is there before it, bytes."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        call()
    held = most = 0
    events = [e for e in found.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


@pytest.mark.parametrize("name", ["natural", "several classes", "paper", "kept, updated"])
def test_memory_is_that_of_one_micro_batch(name: str) -> None:
    """Four times the codes take what they and their logits take, and no activations."""

    def taken(per_class: int, batch_size: int | None) -> int:
        model, codes = wide(per_class)
        settings = request(name, model, codes) | {"rho": 0.5, "spill": 1e9}
        return peak(lambda: one_shot(copy.deepcopy(model), codes, **settings, batch_size=batch_size))

    of_sample = 16 * 8 * 128 * 4
    few, many = taken(4, 4), taken(16, 4)
    assert few < 12 * 4 * of_sample  # at most a dozen activations of four samples
    assert many - few < of_sample
    assert taken(16, None) > many + 48 * of_sample


# Many classes


@cache
def fifty() -> tuple[nn.Module, MnemonicCodes]:
    """A convolutional network of fifty classes that knows two codes of each."""
    codes = MnemonicCodes.generate(50, (3, 8, 8), per_class=2, distribution="blocks")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            *(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU6()),
            *(nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False), nn.BatchNorm2d(16), nn.ReLU6()),
            *(nn.Conv2d(16, 32, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6(), nn.AvgPool2d(2), nn.Flatten()),
            nn.Linear(32 * 16, 50),
        )
    optimizer = torch.optim.Adam(model.parameters(), 0.01, weight_decay=1e-3)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(codes.inputs), codes.labels).backward()
        optimizer.step()
    optimizer.zero_grad()
    return model.eval(), codes


def test_one_class_of_fifty() -> None:
    original, codes = fifty()
    model, sizes = copy.deepcopy(original), list[int]()
    hook = model.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    receipt = one_shot(model, codes, 7, batch_size=8)
    hook.remove()
    with torch.no_grad():
        before, after = (m(codes.tensor.flatten(0, 1)).argmax(1) == codes.labels for m in (original, model))
    assert before.all()
    assert after.tolist() == (codes.labels != 7).tolist()
    assert receipt.evidence["forget_log_odds_after"] < 0
    assert receipt.evidence["remain_log_odds_lost"] <= 2
    assert (max(sizes), min(sizes)) == (8, 2)
    receipt.revert(model)
    assert_holds(model, contents(original))


# Refusals


@pytest.mark.parametrize(
    ("batch_size", "error", "text"),
    [
        ("8", TypeError, r"^`batch_size` must be an int or None, got str$"),
        (8.0, TypeError, r"^`batch_size` must be an int or None, got float$"),
        (True, TypeError, r"^`batch_size` must be an int or None, got bool$"),
        (0, ValueError, r"^`batch_size` must be at least 1, got 0$"),
        (-3, ValueError, r"^`batch_size` must be at least 1, got -3$"),
    ],
)
def test_what_it_must_not_be(batch_size: Any, error: type[Exception], text: str) -> None:
    model, codes = knowing()
    model.register_forward_pre_hook(lambda *_: pytest.fail("the model was run"))
    with refused(model, error, text):
        one_shot(model, codes, 1, batch_size=batch_size)


class Pooled(nn.Module):
    """One row of logits, or one number, for any number of samples."""

    def __init__(self, dims: tuple[int, ...]) -> None:
        super().__init__()
        self.inside, self.dims = mlp(), dims

    def forward(self, x: Tensor) -> Tensor:
        return self.inside(x).mean(self.dims)


@pytest.mark.parametrize(("dims", "shape"), [((0,), r"\(4,\)"), ((0, 1), r"\(\)")])
def test_outputs_that_do_not_fit(dims: tuple[int, ...], shape: str) -> None:
    model, codes = Pooled(dims).eval(), knowing()[1]
    with refused(model, ValueError, rf"^`mnemonic_codes` must have one class per output .* outputs of shape {shape}$"):
        one_shot(model, codes, 1, batch_size=3)


def test_codes_that_do_not_fit_the_model() -> None:
    model, codes = knowing()
    other = MnemonicCodes.generate(CLASSES, (7,), per_class=2)
    text = r"^`mnemonic_codes` must be what the model's forward takes, got samples of shape \(7,\)"
    with refused(model, ValueError, text):
        one_shot(model, other, 1, batch_size=3)
    with refused(model, ValueError, text):
        one_shot(model, other, 1, fisher=keep(model, codes), batch_size=1)
    samples = other.inputs, other.labels, 0.5
    with refused(model, ValueError, r"^`floor` must be what the model's forward takes, got samples of shape \(7,\)"):
        one_shot(model, codes, 1, floor=samples, batch_size=3)


def test_codes_that_the_model_does_not_know() -> None:
    model, _ = knowing()
    strangers = MnemonicCodes.generate(CLASSES, (6,), per_class=2, seed=99)
    with refused(model, UnrecognisedCodesError, "`mnemonic_codes` must be known to the model, but it recognises"):
        one_shot(model, strangers, 1, batch_size=3)


@pytest.mark.parametrize("name", ["natural", "several classes", "paper", "kept, updated"])
def test_a_failure_at_any_forward_leaves_the_model_alone(name: str) -> None:
    inside, codes = knowing()
    model = Fragile(inside).eval()
    settings = request(name, model, codes) | {"batch_size": 3}
    model.calls = 0
    one_shot(model, codes, **settings).revert(model)
    calls, settings = model.calls, request(name, model, codes) | {"batch_size": 3}
    for failing in range(1, calls + 1):
        model.calls, model.failing = 0, failing
        with refused(model, OSError, "in the middle"):
            one_shot(model, codes, **settings)
    assert calls > 8


# The two functions beneath


@pytest.mark.parametrize("batch_size", [1, 2, 4, 5, 9, None])
def test_logits_in_order(batch_size: int | None) -> None:
    sizes, inputs = list[int](), {"image": torch.arange(5.0)[:, None], "text": torch.arange(5.0)[:, None]}

    def run(some: Any) -> Tensor:
        sizes.append(len(some["image"]))
        return 10 * some["image"] + some["text"]

    assert gather_logits(run, inputs, batch_size).tolist() == [[0.0], [11.0], [22.0], [33.0], [44.0]]
    size = batch_size or 5
    assert sizes == [size] * (5 // size) + [5 % size] * (5 % size > 0)


@pytest.mark.parametrize("batch_size", [1, 3, 6, 7, None])
def test_the_mean_of_some_samples(batch_size: int | None) -> None:
    model, codes = knowing()
    model.double()
    inputs, labels, rows = codes.tensor.flatten(0, 1).double(), codes.labels, [0, 1, 2, 5, 6, 7]
    whole = fisher_diagonal(model, inputs[rows], labels[rows], with_gradient=True)
    found = mean_fisher(
        model, lambda rows: (inputs[list(rows)], labels[list(rows)]), rows, batch_size, with_gradient=True
    )
    assert (found.samples, found.reduction) == (6, "mean")
    assert_close(found.losses, whole.losses, 1e-12)
    assert found.gradient is not None
    assert whole.gradient is not None
    for name, value in whole.items():
        assert_close(found[name], value, 1e-12, name)
        assert_close(found.gradient[name], whole.gradient[name], 1e-12, name)
