"""Model inputs that are a tensor, or a tuple or dict of tensors (`model(*inputs)`, `model(**inputs)`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias, TypeVar

from torch import Tensor

Inputs: TypeAlias = "Tensor | tuple[Tensor, ...] | dict[str, Tensor]"

T = TypeVar("T")


def leaves(inputs: Inputs) -> list[Tensor]:
    """The tensors of a structure, in order.

    Args:
        inputs: A tensor, or a non-empty tuple (a list will do) or dict of tensors.

    Returns:
        The tensors.

    Raises:
        TypeError: If `inputs` is, or contains, anything else.
        ValueError: If `inputs` contains no tensor.
    """
    found: list[object]
    if isinstance(inputs, dict):
        found = list(inputs.values())
    elif isinstance(inputs, (tuple, list)):
        found = list(inputs)
    else:
        found = [inputs]
    for leaf in found:
        if not isinstance(leaf, Tensor):
            raise TypeError(f"`inputs` must be a tensor, or a tuple or dict of tensors, got {type(leaf).__name__}")
    if not found:
        raise ValueError(f"`inputs` must hold at least one tensor, got an empty {type(inputs).__name__}")
    return [leaf for leaf in found if isinstance(leaf, Tensor)]


def rebuild(like: Inputs, values: Sequence[T]) -> T | tuple[T, ...] | dict[str, T]:
    """Puts what was made of the leaves back into the structure they came from.

    Args:
        like: The structure.
        values: As many values as `leaves(like)` has tensors.

    Returns:
        `values` in the structure of `like`; a list becomes a tuple.
    """
    if isinstance(like, dict):
        return dict(zip(like, values, strict=True))
    if isinstance(like, (tuple, list)):
        return tuple(values)
    return values[0]


def transform(function: Callable[[Tensor], Tensor], inputs: Inputs) -> Inputs:
    """Applies a function to every tensor of a structure.

    Args:
        function: What to apply.
        inputs: The structure.

    Returns:
        The results in the same structure.
    """
    return rebuild(inputs, [function(leaf) for leaf in leaves(inputs)])


def layout(inputs: Inputs) -> str:
    """Names the structure, for comparing two of them and for error texts.

    Args:
        inputs: The structure.

    Returns:
        "a tensor", "a tuple of 2" or "a dict of ['image', 'text']"; the order of a dict does not count.
    """
    if isinstance(inputs, dict):
        return f"a dict of {sorted(inputs)}"
    if isinstance(inputs, (tuple, list)):
        return f"a tuple of {len(inputs)}"
    return "a tensor"


def leaves_as(like: Inputs, inputs: Inputs) -> list[Tensor]:
    """The tensors of a structure in the order that another structure of the same layout has.

    Args:
        like: The structure that gives the order.
        inputs: The structure whose tensors are wanted.

    Returns:
        One tensor of `inputs` for each of `like`.

    Raises:
        TypeError: If `inputs` is not a structure of tensors.
        ValueError: If the layouts differ.
    """
    found = leaves(inputs)
    if layout(like) != layout(inputs):
        raise ValueError(f"`inputs` must be {layout(like)}, like the codes, got {layout(inputs)}")
    if isinstance(like, dict) and isinstance(inputs, dict):
        return [inputs[name] for name in like]
    return found
