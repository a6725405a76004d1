"""A call of a torch function, as the rules for layouts are given it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from fastforget.fisher.capture.layout import Layout, LayoutState

__all__ = ["Call", "LayoutRule", "dims_of", "tensors_in", "writes"]


class Call(NamedTuple):
    """A call of a torch function, and one tensor that it returned.

    Attributes:
        name: The function's name; the same for a function, its in-place form and its method.
        function: The function.
        args: Its arguments by position.
        kwargs: Its arguments by name.
        result: The tensor; of a function that writes to its first argument that argument, before it is written to.
        tensors: The tensors among the arguments, with what is known of their layouts.
        state_of: Returns what is known of the layout of any argument.
        samples: N.
    """

    name: str
    function: Callable[..., Any]
    args: Sequence[Any]
    kwargs: dict[str, Any]
    result: Tensor
    tensors: Sequence[tuple[Tensor, LayoutState]]
    state_of: Callable[[Any], LayoutState]
    samples: int

    def argument(self, position: int, *names: str, default: Any = None) -> Any:
        """Return an argument given by position or by one of its names."""
        if position < len(self.args):
            return self.args[position]
        return next((self.kwargs[name] for name in names if name in self.kwargs), default)

    def activations(self) -> list[tuple[Tensor, Layout]]:
        """Return the tensor arguments that hold samples, with their layouts."""
        return [(value, state) for value, state in self.tensors if isinstance(state, Layout)]


# Returns the layout of the result of a call, or None where samples may have been mixed.
LayoutRule = Callable[[Call], Layout | None]


def dims_of(value: Any, ndim: int) -> list[int] | None:
    """Return an argument ``dim`` of a function on a tensor of ``ndim`` dimensions as a list, counted from the front.

    Args:
        value: An integer or integers; None for all dimensions.
        ndim: The number of dimensions.

    Returns:
        The dimensions; None where they are not given as integers.
    """
    if value is None:
        return None
    if isinstance(value, int):
        value = (value,)
    return [dim % ndim for dim in value] if all(isinstance(dim, int) for dim in value) else None


def tensors_in(*values: Any) -> list[Tensor]:
    """Return the tensors among values, and in the tuples, lists and dicts among them, in order."""
    tensors: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            tensors.append(value)
        elif isinstance(value, (tuple, list)):
            tensors += tensors_in(*value)
        elif isinstance(value, dict) and value:
            tensors += tensors_in(*value.values())
    return tensors


def writes(function: Callable[..., Any]) -> bool:
    """Whether a function writes to its first argument."""
    name = getattr(function, "__name__", "")
    return name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))
