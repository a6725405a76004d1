"""LSTM, GRU and plain RNN, whose steps are written out, and their cells."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from asserts import assert_close, assert_fisher, prepared, square_error
from cases import randn
from fisher.small_modules import TARGETS, N
from torch import Tensor, nn

from fastforget.fisher.compute import fisher_diagonal

T, IN, HIDDEN = 6, 5, 4
KINDS = [nn.LSTM, nn.GRU, nn.RNN, lambda *args, **settings: nn.RNN(*args, nonlinearity="relu", **settings)]
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "batch first": {"batch_first": True},
    "no bias": {"bias": False},
    "two layers, both directions": {"num_layers": 2, "bidirectional": True},
}


class Outputs(nn.Module):
    """All that a recurrent layer returns, for inputs [N, T, I]."""

    def __init__(self, layer: nn.Module, run: Callable[[nn.Module, Tensor], Any] | None = None) -> None:
        super().__init__()
        self.layer, self.run = layer, run

    def forward(self, x: Tensor) -> Tensor:
        batch_first = self.layer.batch_first
        output, last = (self.run or nn.Module.__call__)(self.layer, x if batch_first else x.transpose(0, 1))
        states = last if isinstance(last, tuple) else (last,)
        parts = [output if batch_first else output.transpose(0, 1), *(state.transpose(0, 1) for state in states)]
        return torch.cat([part.flatten(1) for part in parts], 1)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("kind", KINDS, ids=["lstm", "gru", "rnn", "relu"])
def test_fused(kind: Callable[..., nn.Module], settings: str) -> None:
    build = lambda: Outputs(kind(IN, HIDDEN, **SETTINGS[settings]))  # noqa: E731
    assert_fisher(build, randn(N, T, IN, seed=1), TARGETS, weights=randn(2, N, seed=3).abs())


def test_a_projected_state() -> None:
    assert_fisher(lambda: Outputs(nn.LSTM(IN, HIDDEN, 2, proj_size=3)), randn(N, T, IN, seed=1), TARGETS)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_a_first_state_of_each_sample(kind: Callable[..., nn.Module]) -> None:
    def run(layer: nn.Module, x: Tensor) -> Any:
        state = x[:1, :, :HIDDEN].tanh()
        return layer(x, (state, 2 * state) if kind is nn.LSTM else state)

    assert_fisher(lambda: Outputs(kind(IN, HIDDEN), run), randn(N, T, IN, seed=1), TARGETS)


def test_several_sequences_of_a_sample() -> None:
    class Frames(Outputs):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.flatten(0, 1)).unflatten(0, (len(x), 2))

    assert_fisher(lambda: Frames(nn.GRU(IN, HIDDEN)), randn(N, 2, T, IN, seed=1), TARGETS)


def test_a_layer_used_twice() -> None:
    """On the sequences, and on those of their states."""

    def run(layer: nn.Module, x: Tensor) -> Any:
        return layer(layer(x)[0])

    assert_fisher(lambda: Outputs(nn.LSTM(IN, IN), run), randn(N, T, IN, seed=1), TARGETS)


def test_some_of_the_parameters() -> None:
    model, x = prepared(lambda: Outputs(nn.LSTM(IN, HIDDEN))), randn(N, T, IN, seed=1)
    every = fisher_diagonal(model, x, TARGETS, loss=square_error)
    for name, value in every.items():
        found = fisher_diagonal(model, x, TARGETS, loss=square_error, parameters=[name])
        assert not found.fallback
        assert_close(found[name], value, name=name)


class Learned(nn.Module):
    """A layer with a first state that is a parameter, on sequences that may be packed."""

    def __init__(self, *, packed: bool) -> None:
        super().__init__()
        self.layer, self.first, self.packed = nn.GRU(IN, HIDDEN, batch_first=True), nn.Parameter(randn(1, 1, 4)), packed

    def forward(self, x: Tensor) -> Tensor:
        first = self.first.expand(1, len(x), -1)
        given = nn.utils.rnn.pack_padded_sequence(x, [T] * len(x), batch_first=True) if self.packed else x
        return self.layer(given, first.contiguous())[1][0]


def test_a_first_state_that_is_a_parameter() -> None:
    assert_fisher(lambda: Learned(packed=False), randn(N, T, IN, seed=1), TARGETS)


def test_packed_sequences_fall_back() -> None:
    names = {"layer.weight_ih_l0", "layer.weight_hh_l0", "layer.bias_ih_l0", "layer.bias_hh_l0"}
    assert_fisher(lambda: Learned(packed=True), randn(N, T, IN, seed=1), TARGETS, fallback=names)


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell], ids=["lstm", "gru", "rnn"])
def test_cells(kind: Callable[..., nn.Module]) -> None:
    class Steps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = kind(IN, HIDDEN)

        def forward(self, x: Tensor) -> Tensor:
            state = None
            for step in x.unbind(1):
                state = self.cell(step, state)
            return state[0] if isinstance(state, tuple) else state

    assert_fisher(Steps, randn(N, T, IN, seed=1), TARGETS)


class Mark:
    """Lives as long as the graph of the model's run."""


class Marked(torch.autograd.Function):
    """Identity whose node in the graph holds a mark."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, marks: list[Any]) -> Tensor:
        ctx.mark = Mark()
        marks.append(weakref.ref(ctx.mark))
        return x.clone()

    @staticmethod
    def backward(_: Any, *grads: Tensor) -> Any:
        return grads[0], None


def test_the_graph_is_not_kept_alive() -> None:
    """Not by the inputs of its steps, which are kept until backward, where none follows."""
    marks: list[Any] = []

    class Watched(Outputs):
        def __init__(self) -> None:
            super().__init__(nn.LSTM(IN, HIDDEN))
            self.below = nn.Linear(IN, IN)

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(Marked.apply(self.below(x), marks))

    def loss(*_: Any) -> Tensor:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fisher_diagonal(prepared(Watched), randn(N, T, IN, seed=1), TARGETS, loss=loss)
    gc.collect()
    assert marks
    assert all(mark() is None for mark in marks)
