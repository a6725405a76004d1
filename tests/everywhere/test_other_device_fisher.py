"""On another device, the Fisher diagonal has the same bits, and the host waits once."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from asserts import assert_same_bits
from cases import randn
from everywhere.counting import counted
from known_codes import CLASSES, TwoInputs, convnet, mlp, model_with_codes
from simulated_device import SimulatedTensor, simulated_device, to_cpu, to_device
from torch import Tensor, nn

from fastforget import FisherDiagonal, fisher_diagonal
from fastforget.fisher import leaf_model


def compare(found: FisherDiagonal, expected: FisherDiagonal) -> None:
    assert found.fallback == expected.fallback
    for mine, others in ((found, expected), (found.gradient or {}, expected.gradient or {})):
        assert list(mine) == list(others)
        for name, value in mine.items():
            assert isinstance(value, SimulatedTensor)
            assert_same_bits(to_cpu(value), others[name])
    for mine, other in ((found.losses, expected.losses), (found.weight, expected.weight)):
        assert isinstance(mine, SimulatedTensor)
        assert_same_bits(to_cpu(mine), other)


class Twice(nn.Module):
    """A layer used twice, and one that no kernel covers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.odd = nn.Linear(6, 6), nn.Parameter(randn(6, 4, seed=1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(self.layer(x).tanh())
        return x @ (self.odd / self.odd.norm())


GROUPS = torch.tensor([[1.0, 1, 0, 0, 0, 0, 0, 0], [0, 0, 1, 1, 1, 1, 1, 1]])
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "with gradient": {"with_gradient": True},
    "groups": {"weights": GROUPS, "with_gradient": True},
    "weights on the CPU": {"weights": GROUPS[1]},
    "sum": {"reduction": "sum"},
    "expectation": {"labels": "expectation"},
    "batches": {"square": "batch", "batch_size": 3, "with_gradient": True},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("build", [mlp, convnet, TwoInputs, Twice])
def test_fisher_is_computed_there_and_waits_once(
    build: Callable[[], nn.Module], way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = WAYS[way]
    if build is Twice:
        torch.manual_seed(0)
        model, inputs, labels = Twice().eval(), randn(8, 6), torch.arange(8) % CLASSES
    else:
        model, codes = model_with_codes(build)
        inputs, labels = codes.inputs, codes.labels
    targets = None if "labels" in settings else labels
    expected = fisher_diagonal(model, inputs, targets, **settings)
    with simulated_device(monkeypatch) as waits:
        found = fisher_diagonal(to_device(model), to_device(inputs), to_device(targets), **settings)
        here = counted(waits)
    compare(found, expected)
    weights = 1 if way == "weights on the CPU" else 2 if way == "groups" else 0
    # ... beside the fingerprint that a sum notes, and weights that have to be sent there
    assert here.pop("fisher/samples.py", 0) == (1 if weights else 0)
    assert here == {"classifier/devices.py": 1, **({"classifier/fingerprint.py": 1} if way == "sum" else {})}


def test_the_fisher_of_one_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    model, codes = model_with_codes()
    expected = fisher_diagonal(model, codes.inputs[:1], codes.labels[:1], with_gradient=True)
    with simulated_device(monkeypatch) as waits:
        found = fisher_diagonal(
            to_device(model), to_device(codes.inputs[:1]), to_device(codes.labels[:1]), with_gradient=True
        )
        assert counted(waits) == {"classifier/devices.py": 1}
    compare(found, expected)


def test_a_generator_on_another_device(monkeypatch: pytest.MonkeyPatch) -> None:
    model, codes = model_with_codes()
    text = "`generator` must be on meta, the model's device, got one on cpu"
    with simulated_device(monkeypatch):
        inputs, generator = to_device(codes.inputs), torch.Generator().manual_seed(0)
        model = to_device(model)
        with pytest.raises(ValueError, match=text):
            fisher_diagonal(model, inputs, labels="sampled", generator=generator)


@pytest.mark.parametrize("draws", [False, True])
def test_a_model_that_draws_on_its_device_is_refused(draws: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, codes = model_with_codes()
    state = torch.zeros(16, dtype=torch.uint8)
    restored: list[Any] = []

    class Drawing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            state[0] += draws
            return model(x)

    monkeypatch.setattr(leaf_model, "random_devices", lambda *_: [torch.device("cuda:0")])
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda _: state.clone())
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda *values: restored.append(values))
    drawing = Drawing().eval()
    drawing.inside = model
    with pytest.raises(ValueError, match="must not draw random numbers") if draws else nullcontext():
        fisher_diagonal(drawing, codes.inputs, codes.labels)
    assert len(restored) == 1


def spoilt(tensor: Tensor, value: float) -> Tensor:
    changed = tensor.clone()
    changed.view(-1)[1] = value
    return changed


BAD: dict[str, Callable[[Tensor, Tensor], dict[str, Any]]] = {
    "`inputs` must be finite": lambda x, y: {"inputs": spoilt(x, torch.nan), "targets": y},
    "`weights` must be finite and not negative": lambda x, y: {
        "inputs": x,
        "targets": y,
        "weights": spoilt(torch.ones(8), -1.0),
    },
    "`weights` must have a positive sum": lambda x, y: {"inputs": x, "targets": y, "weights": torch.zeros(8)},
    "the loss of sample 5 is inf": lambda x, y: {
        "inputs": x,
        "targets": y,
        "loss": lambda o, _: o.sum(1) / (torch.arange(8, device=o.device) != 5),
    },
    "`loss` must be the negative log-likelihood of a class": lambda x, _: {
        "inputs": x,
        "labels": "expectation",
        "loss": lambda o, t: o.sum(1).abs() + t,
    },
}


@pytest.mark.parametrize("text", BAD)
def test_bad_values_are_refused_there_too(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, codes = model_with_codes()
    arguments = BAD[text](codes.inputs, codes.labels)
    with pytest.raises(ValueError, match=text) as expected:
        fisher_diagonal(model, **arguments)
    with simulated_device(monkeypatch), pytest.raises(ValueError, match=text) as found:
        fisher_diagonal(to_device(model), **to_device(arguments))
    assert str(found.value) == str(expected.value)


def test_a_bad_batch_is_not_added(monkeypatch: pytest.MonkeyPatch) -> None:
    model, codes = model_with_codes()
    model = to_device(model)
    with simulated_device(monkeypatch):
        x, y = to_device(codes.inputs), to_device(codes.labels)
        total = fisher_diagonal(model, x, y, reduction="sum")
        before = {name: to_cpu(value).clone() for name, value in total.items()}
        with pytest.raises(ValueError, match="`inputs` must be finite"):
            fisher_diagonal(model, to_device(spoilt(codes.inputs, torch.inf)), y, into=total)
    for name, value in before.items():
        assert_same_bits(to_cpu(total[name]), value)


def test_a_loaded_sum_goes_on_where_the_model_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, codes = model_with_codes()
    part = fisher_diagonal(model, codes.inputs, codes.labels, weights=GROUPS, with_gradient=True, reduction="sum")
    part.save(tmp_path / "kept")
    loaded = FisherDiagonal.load(tmp_path / "kept")
    model = to_device(model)
    with simulated_device(monkeypatch):
        there = loaded.to("meta")
        compare(there, part)
        assert loaded.weight.is_cpu
        x, y, weights = to_device((codes.inputs, codes.labels, GROUPS))
        found = fisher_diagonal(model, x, y, weights=weights, with_gradient=True, into=there)
        assert found is there
        compare(there, part + part)
