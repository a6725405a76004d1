"""`one_shot(batch_size=...)` makes the same edit from so many codes at a time."""

import copy
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from asserts import assert_close, assert_same_bits
from class_forgetting.kept_fisher_cases import keep, positions
from class_forgetting.micro_batch_cases import REQUESTS, RHO, edited, request
from known_codes import TwoInputs, assert_holds, convnet, copied_tensors, edits_values_only, mlp, model_with_codes
from simulated_device import simulated_device, to_cpu, to_device
from torch import Tensor, nn

from fastforget import FisherDiagonal, MnemonicCodes, fingerprint, fisher_diagonal, one_shot
from fastforget.classifier.inputs import split_samples
from fastforget.classifier.running import gather_logits
from fastforget.fisher.micro_batches import mean_fisher


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_same_edit(name: str, batch_size: int) -> None:
    """In float64, and of parameters that have no ties: there nothing is a matter of rounding."""
    model, codes = model_with_codes(mlp, per_class=3)
    model.double()
    (whole, full), (parts, receipt) = (edited(name, model, codes, size) for size in (None, batch_size))
    assert positions(receipt) == positions(full)
    assert receipt.alpha == pytest.approx(full.alpha, rel=1e-6)
    assert receipt.evidence == pytest.approx(full.evidence, rel=1e-6)
    for key, value in copied_tensors(whole).items():
        assert_close(copied_tensors(parts)[key], value, 1e-8, key)


@pytest.mark.parametrize("named", [False, True])
def test_inputs_of_several_tensors(named: bool) -> None:
    model, codes = model_with_codes(TwoInputs, named=named)
    model.double()
    whole, parts = (edited("natural", model, codes, size)[0] for size in (None, 3))
    for key, value in copied_tensors(whole).items():
        assert_close(copied_tensors(parts)[key], value, 1e-8, key)


@pytest.mark.parametrize("name", REQUESTS)
def test_the_same_bits_where_all_fit(name: str) -> None:
    model, codes = model_with_codes(convnet)
    whole, parts = (edited(name, model, codes, size)[0] for size in (None, len(codes.labels)))
    assert_holds(parts, copied_tensors(whole))


@pytest.mark.parametrize("name", REQUESTS)
def test_the_same_bits_twice(name: str) -> None:
    model, codes = model_with_codes(convnet)
    first, second = (edited(name, model, codes, 3)[0] for _ in range(2))
    assert_holds(second, copied_tensors(first))


@pytest.mark.parametrize("name", REQUESTS)
def test_no_forward_sees_more(name: str) -> None:
    model, codes = model_with_codes(convnet, per_class=4)
    settings, sizes = request(name, model, codes), list[int]()
    model.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    with edits_values_only(model):
        one_shot(model, codes, **settings, batch_size=3)
    assert max(sizes) == 3


@pytest.mark.parametrize("name", ["natural", "paper"])
def test_on_another_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bits; the host waits twice for each of two micro-batches of the other codes, and for their mean."""
    model, codes = model_with_codes(convnet)
    expected, waited = copied_tensors(edited(name, model, codes, 3)[0]), list[int]()
    for batch_size in (None, 3):
        distant = to_device(copy.deepcopy(model))
        with simulated_device(monkeypatch) as waits:
            one_shot(distant, codes, **request(name, model, codes), batch_size=batch_size)
        waited.append(len(waits))
    for key, parameter in distant.named_parameters():
        assert_same_bits(to_cpu(parameter), expected[key])
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
    model, codes = model_with_codes(convnet, per_class=3)
    model.double()
    codes = codes.to(torch.float64)
    other = copy.deepcopy(model)
    whole, parts = keep(other, codes), kept_in_batches(model, codes, 5)
    for cls, forgotten in ((1, []), (3, [1])):
        settings: dict[str, Any] = {"forgotten": forgotten, "rho": RHO, "update": True}
        one_shot(other, codes, cls, fisher=whole, **settings)
        one_shot(model, codes, cls, fisher=parts, batch_size=2, **settings)
        for key, value in copied_tensors(other).items():
            assert_close(copied_tensors(model)[key], value, 1e-8, key)
        assert parts.model == fingerprint(model)
        assert (parts.samples, len(parts.losses)) == (whole.samples, whole.samples)
        assert_close(parts.losses, whole.losses, 1e-8)
        for key, value in whole.items():
            assert_close(parts[key], value, 1e-8, key)


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
    assert (max(sizes), min(sizes)) == (8, 2)  # 98 others are 12 batches and 2
    receipt.revert(model)
    assert_holds(model, copied_tensors(original))


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
    model, codes = model_with_codes()
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
