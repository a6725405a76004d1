"""Models are watched as they were written: compiled modules eager, recurrent layers where cuDNN has a backward."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from asserts import assert_close, assert_same_bits, batch_one_loop
from torch import Tensor, nn
from torch.nn import functional as F

from fastforget import fisher_diagonal, learn_to_unlearn
from fastforget.auditing.relearning import relearning_curve
from fastforget.baselines import boundary_shrink, fine_tune, salun, ssd, unsir
from fastforget.classifier.compilation import uncompiled
from fastforget.classifier.modes import evaluating, recurrent_backward

N = 8


class Sequences(nn.Module):
    """Two layers with dropout in between."""

    def __init__(self, kind: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.body, self.head = kind(3, 6, num_layers=2, dropout=0.5, batch_first=True), nn.Linear(6, 3)
        self.ran: list[tuple[bool, float]] = []

    def forward(self, x: Tensor) -> Tensor:
        assert isinstance(self.body.dropout, float)
        self.ran.append((self.body.training, self.body.dropout))
        made: Tensor = self.head(self.body(x)[0][:, -1])
        return made


KINDS = [nn.LSTM, nn.GRU, nn.RNN]


def network(kind: Callable[..., nn.Module] = nn.LSTM) -> Sequences:
    torch.manual_seed(0)
    return Sequences(kind).eval()


def batch(seed: int = 1, count: int = N) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 5, 3, generator=generator), torch.arange(count) % 3


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits, targets, reduction="none")


@pytest.mark.parametrize("kind", KINDS)
def test_same_outputs_and_all_is_put_back(kind: Callable[..., nn.Module]) -> None:
    model, (x, _) = network(kind), batch()
    with torch.no_grad():
        before = model(x)
        with recurrent_backward(model):
            assert_same_bits(model(x), before)
        with evaluating(model.train()):
            assert_same_bits(model(x), before)
    assert model.ran == [(False, 0.5), (True, 0.0), (True, 0.0)]
    assert model.body.training
    assert model.body.dropout == 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_the_fisher(kind: Callable[..., nn.Module]) -> None:
    model, (x, y) = network(kind), batch()
    found = fisher_diagonal(model, x, y)
    assert set(model.ran) == {(True, 0.0)}
    assert not model.body.training
    expected, _ = batch_one_loop(copy.deepcopy(model).double(), x.double(), y, cross_entropy, torch.ones(1, N).double())
    for name, value in found.items():
        assert_close(value, expected[name][0].float(), name=name)


def test_compiled_modules_are_compiled_again_afterwards() -> None:
    """Also where two threads watch at once, and the first one ends first."""
    model: Any = nn.Sequential(torch.compile(nn.Linear(2, 2), backend="eager"), nn.Linear(2, 2))
    model[1].compile(backend="eager")
    before = [vars(model[0])["forward"], vars(model[1])["_compiled_call_impl"]]
    first, second = uncompiled(model), uncompiled(model)
    with first:
        assert vars(model[0])["forward"] == model[0]._orig_mod.__call__
        assert vars(model[1])["_compiled_call_impl"] is None
        second.__enter__()
    second.__exit__(None, None, None)
    assert [vars(model[0])["forward"], vars(model[1])["_compiled_call_impl"]] == before


METHODS: dict[str, Callable[[nn.Module], Any]] = {
    "learn_to_unlearn": lambda model: learn_to_unlearn(model, [batch()], [batch(2), batch(3)], steps=2),
    "ssd": lambda model: ssd(model, [batch()], [batch(2)], alpha=1),
    "salun": lambda model: salun(model, [batch()], [batch(2)], epochs=1),
    "unsir": lambda model: unsir(model, [(batch()[0], torch.zeros(N, dtype=torch.int64))], [batch(2)]),
    "boundary_shrink": lambda model: boundary_shrink(model, [batch()], [], epochs=1),
    "relearning": lambda model: relearning_curve(model, [batch()], steps=2),
}


@pytest.mark.parametrize("method", METHODS)
def test_methods_differentiate_in_train_mode_only(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As cuDNN asks for; with dropout where a method trains, and none where it evaluates."""
    model, run = network(), Sequences.forward

    def forward(self: Sequences, x: Tensor) -> Tensor:
        assert self.body.training or not torch.is_grad_enabled()
        return run(self, x)

    monkeypatch.setattr(Sequences, "forward", forward)
    METHODS[method](model)
    assert (model.training, model.body.training, model.body.dropout) == (False, False, 0.5)


def test_training_keeps_its_dropout() -> None:
    model = network()
    fine_tune(model, [], [batch()], epochs=1)
    assert (True, 0.5) in model.ran


def test_a_model_inside_data_parallel() -> None:
    model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 4)).eval()
    x, y = torch.randn(N, 3), torch.arange(N) % 4
    found, expected = fisher_diagonal(nn.DataParallel(model), x, y), fisher_diagonal(model, x, y)
    assert not found.fallback
    for name, value in expected.items():
        assert torch.equal(found[name], value)
        assert torch.equal(found[f"module.{name}"], value)
        with pytest.raises(KeyError):
            expected[f"module.{name}"]
    compiled = fisher_diagonal(torch.compile(nn.DataParallel(model), backend="eager"), x, y)
    assert torch.equal(compiled["_orig_mod.module.0.weight"], expected["0.weight"])
