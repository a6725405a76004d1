"""Inputs of a model: a tensor, or a tuple or dict of tensors and plain values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fastforget.classifier.devices import DeferredChecks

__all__ = [
    "Inputs",
    "check_finite",
    "count_samples",
    "describe_structure",
    "leaves",
    "leaves_in_order_of",
    "plain",
    "rebuild",
    "split_samples",
    "tensors_of",
    "transform",
]

Inputs = Tensor | tuple[Any, ...] | list[Any] | dict[str, Any]

T = TypeVar("T")


def plain(inputs: Inputs | Mapping[str, Any]) -> Inputs:
    """Return a mapping, such as a tokenizer's ``BatchEncoding``, as a dict; anything else as it is."""
    if isinstance(inputs, Mapping):
        return inputs if type(inputs) is dict else dict(inputs)
    return inputs


def tensors_of(values: Any) -> list[Tensor]:
    """Return the tensors in a nested structure, in order."""
    return [leaf for leaf in pytree.tree_leaves(values) if isinstance(leaf, Tensor)]


def count_samples(inputs: Inputs, targets: Any) -> int:
    """Return N, after checking that every tensor of inputs and targets has N in dimension 0.

    Raises:
        TypeError: There is no tensor.
        ValueError: The batch is empty, or sizes differ.
    """
    if not isinstance(inputs, (Tensor, tuple, list, dict)):
        raise TypeError(f"`inputs` must be a tensor, tuple or dict, got {type(inputs).__name__}")
    tensors = tensors_of(inputs)
    if not tensors:
        raise TypeError("`inputs` must hold at least one tensor")
    for name, members in (("inputs", tensors), ("targets", tensors_of(targets))):
        for tensor in members:
            if tensor.dim() == 0 or tensor.shape[0] != tensors[0].shape[0]:
                raise ValueError(
                    f"`{name}` must have the batch size {tuple(tensors[0].shape)[:1]} first, "
                    f"got shape {tuple(tensor.shape)}"
                )
    if tensors[0].shape[0] == 0:
        raise ValueError(f"`inputs` must not be empty, got shape {tuple(tensors[0].shape)}")
    return int(tensors[0].shape[0])


def check_finite(inputs: Inputs, checks: DeferredChecks) -> None:
    """Have ``checks`` raise ValueError if a floating-point input holds NaN or infinity."""
    for tensor in tensors_of(inputs):

        def complain(tensor: Tensor = tensor) -> None:
            if not bool(torch.isfinite(tensor).all()):
                shape = tuple(tensor.shape)
                raise ValueError(f"`inputs` must be finite, got NaN or infinity in a tensor of shape {shape}")

        # NaN and infinity survive a sum, which is a tenth of the work; a sum that overflows is looked at again.
        if tensor.is_floating_point():
            checks.add(tensor.detach().sum(), math.isfinite, complain)


def split_samples(inputs: Inputs, targets: Any, samples: int, size: int = 1) -> Iterator[tuple[Inputs, Any]]:
    """Yield batches of ``size`` samples in order; the last may have fewer."""
    for n in range(0, samples, size):
        yield pytree.tree_map(lambda v, n=n: v[n : n + size] if isinstance(v, Tensor) else v, (inputs, targets))


def leaves(inputs: Inputs) -> list[Tensor]:
    """Return the tensors of a structure that holds nothing else, in order.

    Args:
        inputs: A tensor, or a non-empty tuple, list or dict of tensors.

    Returns:
        The tensors.

    Raises:
        TypeError: `inputs` is, or contains, anything else.
        ValueError: `inputs` contains no tensor.
    """
    members: list[object]
    if isinstance(inputs, dict):
        members = list(inputs.values())
    elif isinstance(inputs, (tuple, list)):
        members = list(inputs)
    else:
        members = [inputs]
    for leaf in members:
        if not isinstance(leaf, Tensor):
            raise TypeError(f"`inputs` must be a tensor, or a tuple or dict of tensors, got {type(leaf).__name__}")
    if not members:
        raise ValueError(f"`inputs` must hold at least one tensor, got an empty {type(inputs).__name__}")
    return [leaf for leaf in members if isinstance(leaf, Tensor)]


def rebuild(like: Inputs, values: Sequence[T]) -> T | tuple[T, ...] | dict[str, T]:
    """Put values, one per tensor of a structure, into that structure.

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
    """Apply a function to every tensor of a structure.

    Args:
        function: What to apply.
        inputs: The structure.

    Returns:
        The results in the same structure.
    """
    return rebuild(inputs, [function(leaf) for leaf in leaves(inputs)])


def describe_structure(inputs: Inputs) -> str:
    """Name the structure, to compare two of them and for error texts.

    Args:
        inputs: The structure.

    Returns:
        "a tensor", "a tuple of 2" or "a dict of ['image', 'text']"; the order of a dict does not matter.
    """
    if isinstance(inputs, dict):
        return f"a dict of {sorted(inputs)}"
    if isinstance(inputs, (tuple, list)):
        return f"a tuple of {len(inputs)}"
    return "a tensor"


def leaves_in_order_of(like: Inputs, inputs: Inputs) -> list[Tensor]:
    """Return the tensors of a structure in the order of another one of the same kind.

    Args:
        like: The structure that gives the order.
        inputs: The structure whose tensors are wanted.

    Returns:
        One tensor of `inputs` for each of `like`.

    Raises:
        TypeError: `inputs` is not a structure of tensors.
        ValueError: The structures differ.
    """
    tensors = leaves(inputs)
    if describe_structure(like) != describe_structure(inputs):
        raise ValueError(
            f"`inputs` must be {describe_structure(like)}, like the codes, got {describe_structure(inputs)}"
        )
    if isinstance(like, dict) and isinstance(inputs, dict):
        return [inputs[name] for name in like]
    return tensors
