"""Recurrent layers: LSTM, GRU and plain RNN, step by step.

PyTorch runs a whole sequence in one function, which keeps what its weights were multiplied with to itself. Here the
steps are written out. The weights of the input see all steps at once, as those of a linear layer do. Those of the state
see one step after the other; but all that is needed of them, the states and the gradients that arrive, is gathered in
two tensors [N, T, ...]. So both take one kernel, whatever T is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastforget.fisher.capture.layout import Layout
from fastforget.fisher.capture.recognisers.linear import linear_uses
from fastforget.fisher.capture.watch import Watch
from fastforget.fisher.dtypes import autocasts

__all__ = ["CELLS", "RECOGNISERS"]

# Returns the next state from what the input and the state contribute to the gates.
_Cell = Callable[[Tensor, Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]


def _lstm_cell(of_input: Tensor, of_state: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    i, f, g, o = (of_input + of_state).chunk(4, -1)
    cell = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
    return o.sigmoid() * cell.tanh(), cell


def _gru_cell(of_input: Tensor, of_state: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    gates = 2 * of_state.shape[-1] // 3
    reset, update = (of_input[..., :gates] + of_state[..., :gates]).sigmoid().chunk(2, -1)
    new = (of_input[..., gates:] + reset * of_state[..., gates:]).tanh()
    return (new + update * (state[0] - new),)


def _tanh_cell(of_input: Tensor, of_state: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return ((of_input + of_state).tanh(),)


def _relu_cell(of_input: Tensor, of_state: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return ((of_input + of_state).relu(),)


class _Weights(NamedTuple):
    """Of a layer in one direction.

    Attributes:
        of_input: [gates, I].
        of_state: [gates, H].
        input_bias: [gates], or None.
        state_bias: [gates], or None.
        projection: [P, H], or None.
    """

    of_input: Tensor
    of_state: Tensor
    input_bias: Tensor | None = None
    state_bias: Tensor | None = None
    projection: Tensor | None = None


class _StepByStep:
    """A linear layer that is applied to one step after the other, and whose uses are gathered over all steps."""

    def __init__(self, watch: Watch, weight: Tensor, bias: Tensor | None, like: Tensor, layout: Layout) -> None:
        """Apply ``weight`` [O, I] and ``bias`` to the steps of sequences like ``like`` [N, T, ...]."""
        rows, steps = like.shape[:2]
        inputs = like.new_empty(rows, steps, weight.shape[1])
        self._inputs = inputs.data  # written to step by step, which is no change of an operand
        self._weight, self._bias = watch.detached(weight).detach(), None if bias is None else bias.detach()
        zeros = like.new_zeros(rows, steps, weight.shape[0])
        # The gradients of the outputs arrive at what is added to them.
        self._added = watch.tap(zeros, layout, linear_uses(watch, weight, bias, inputs, layout, transposed=False))
        self._added_at = self._added.unbind(1)

    def __call__(self, x: Tensor, step: int) -> Tensor:
        """Return the outputs of a step, [N, O], for its inputs."""
        self._inputs[:, step] = x.detach()
        return F.linear(x, self._weight, self._bias) + self._added_at[step]


def _layer(
    watch: Watch,
    cell: _Cell,
    x: Tensor,
    state: tuple[Tensor, ...],
    weights: _Weights,
    layout: Layout,
    *,
    backward: bool,
) -> tuple[Tensor, tuple[Tensor, ...]]:  # fmt: skip
    """Return the outputs [N, T, H] of a layer in one direction, and the last state."""
    detached = (watch.detached(weights.of_input), watch.detached(weights.input_bias))
    uses = linear_uses(watch, weights.of_input, weights.input_bias, x, layout, transposed=False)
    of_input = watch.tap(F.linear(x, *detached), layout, uses, fresh=True).unbind(1)
    of_state = _StepByStep(watch, weights.of_state, weights.state_bias, x, layout)
    project = None if weights.projection is None else _StepByStep(watch, weights.projection, None, x, layout)
    outputs: list[Tensor] = []
    for step in reversed(range(x.shape[1])) if backward else range(x.shape[1]):
        state = cell(of_input[step], of_state(state[0], step), state)
        if project is not None:
            state = (project(state[0], step), *state[1:])
        outputs.append(state[0])
    return torch.stack(outputs[::-1] if backward else outputs, 1), state


def _grouped(flat: Sequence[Tensor], *, bias: bool, projected: bool) -> Iterator[_Weights]:
    """Yield the weights of each layer and direction, from the list that PyTorch keeps them in."""
    count = 2 + 2 * bias + projected
    for start in range(0, len(flat), count):
        of_input, of_state, *others = flat[start : start + count]
        input_bias, state_bias = others[:2] if bias else (None, None)
        yield _Weights(of_input, of_state, input_bias, state_bias, others[-1] if projected else None)


def _can_follow(watch: Watch, input: Any, states: Sequence[Any], flat: Any, batch_dim: int) -> bool:
    """Whether the samples are known in everything that a recurrent layer is given."""
    if not isinstance(input, Tensor) or input.dim() != 3 or not isinstance(flat, (list, tuple)) or autocasts(input):
        return False
    layout = watch.layout(input)
    if layout is None or layout.dim != batch_dim or not all(input.shape) or not watch.are_parametric(*flat):
        return False
    return all(
        isinstance(state, Tensor)
        and not watch.parameter(state)
        and watch.layout_state(state) in (None, Layout(1, layout.inner))
        for state in states
    )


def _recurrent(cell: _Cell) -> Callable[..., Any]:
    """Return the recogniser of a function that runs a cell over a sequence."""

    def recognise(
        watch: Watch, func: Any, input: Any, hx: Any, params: Any, has_biases: Any, num_layers: Any = 1,
        dropout: Any = 0.0, train: Any = False, bidirectional: Any = False, batch_first: Any = False,
    ) -> Any:  # fmt: skip
        states = tuple(hx) if isinstance(hx, (list, tuple)) else (hx,)
        if not isinstance(has_biases, bool) or (train and dropout and num_layers > 1):  # packed, or random
            return NotImplemented
        if not _can_follow(watch, input, states, params, 0 if batch_first else 1):
            return NotImplemented
        known = watch.layout(input)
        layout = Layout(0, known.inner if known else 1)
        projected = len(states) == 2 and states[0].shape[-1] != states[1].shape[-1]
        x = input if batch_first else input.transpose(0, 1)
        directions: list[Tensor] = []
        last: list[tuple[Tensor, ...]] = []
        for n, weights in enumerate(_grouped(params, bias=has_biases, projected=projected)):
            state = tuple(state[n] for state in states)
            output, state = _layer(watch, cell, x, state, weights, layout, backward=len(directions) == 1)
            directions.append(output)
            last.append(state)
            if len(directions) == (2 if bidirectional else 1):
                x = torch.cat(directions, -1) if bidirectional else output
                directions.clear()
        results = [x if batch_first else x.transpose(0, 1), *(torch.stack(parts) for parts in zip(*last, strict=True))]
        for result, dim in zip(results, (0 if batch_first else 1, 1, 1), strict=False):
            watch.record(result, Layout(dim, layout.inner))
        return tuple(results)

    return recognise


def _rewritten_cell(cell: _Cell) -> Callable[..., Any]:
    """Return how a function that does one step is written with linear functions."""

    def rewrite(
        watch: Watch, func: Any, input: Any, hx: Any, w_ih: Any, w_hh: Any, b_ih: Any = None, b_hh: Any = None
    ) -> Any:
        state = tuple(hx) if isinstance(hx, (list, tuple)) else (hx,)
        result = cell(F.linear(input, w_ih, b_ih), F.linear(state[0], w_hh, b_hh), state)
        return result if len(result) > 1 else result[0]

    return rewrite


_CELLS: dict[str, _Cell] = {"lstm": _lstm_cell, "gru": _gru_cell, "rnn_tanh": _tanh_cell, "rnn_relu": _relu_cell}
RECOGNISERS: dict[Any, Callable[..., Any]] = {getattr(torch, name): _recurrent(cell) for name, cell in _CELLS.items()}
# Rewritten (`fastforget.fisher.capture.rewrites`), since their weights are used once for every step.
CELLS: dict[Any, Callable[..., Any]] = {
    getattr(torch, f"{name}_cell"): _rewritten_cell(cell) for name, cell in _CELLS.items()
}
