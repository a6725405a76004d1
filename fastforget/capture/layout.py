"""Where the samples of a batch are inside an activation, followed from function to function.

The Fisher of a parameter needs to know which entries of an activation belong to which sample. That is
not always dimension 0: ``nn.MultiheadAttention`` computes on [T, N, E], windowed attention on
[N * windows, T, E], many language models on [N * T, E]. A `Layout` says where the samples are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

__all__ = ["Call", "Layout", "Read", "State", "Unknown", "samples_first", "tensors_in"]


class Layout(NamedTuple):
    """Samples lie along ``dim``: entry i of that dimension belongs to sample ``i // inner % N``."""

    dim: int
    inner: int = 1


@dataclass(frozen=True)
class Unknown:
    """Nobody knows where the samples are, because of ``reason``."""

    reason: str


State = Layout | Unknown | None  # None: the same for every sample
Read = Callable[[Any], State]  # the state of an argument


@dataclass
class Call:
    """One function call: its arguments, the tensors among them with their states, its result, and N."""

    args: Sequence[Any]
    kwargs: dict[str, Any]
    result: Tensor
    tensors: Sequence[tuple[Tensor, State]]
    read: Read
    samples: int
    function: Callable[..., Any]

    def argument(self, position: int, *names: str, default: Any = None) -> Any:
        """Return an argument given by position or by one of its names."""
        if position < len(self.args):
            return self.args[position]
        return next((self.kwargs[name] for name in names if name in self.kwargs), default)

    def tracked(self) -> list[tuple[Tensor, Layout]]:
        """Return the tensor arguments that hold samples, with their layouts."""
        return [(value, state) for value, state in self.tensors if isinstance(state, Layout)]


def samples_first(tensor: Tensor, layout: Layout, samples: int) -> Tensor:
    """View a tensor as [N, inner and outer entries of its sample dimension, other dimensions …]."""
    if layout.dim == 0 and layout.inner == 1 and tensor.shape[0] == samples:
        return tensor.unsqueeze(1)
    split = tensor.unflatten(layout.dim, (-1, samples, layout.inner))
    moved: Tensor = split.movedim((layout.dim + 1, layout.dim, layout.dim + 2), (0, 1, 2))
    return moved.flatten(1, 2)


def tensors_in(*values: Any) -> list[Tensor]:
    """Return the tensors among values, and in the tuples, lists and dicts among them, in order."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (tuple, list)):
            found += tensors_in(*value)
        elif isinstance(value, dict) and value:
            found += tensors_in(*value.values())
    return found
