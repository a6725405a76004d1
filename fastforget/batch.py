"""Batches as the model's forward takes them: a tensor, or a tuple or dict of tensors and plain values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fastforget.waiting import Checks

__all__ = ["Inputs", "batch_size", "check_finite", "forward", "logits_of", "split_samples", "tensors_of"]

Inputs = Tensor | tuple[Any, ...] | list[Any] | dict[str, Any]


def forward(model: Callable[..., Any], inputs: Inputs) -> Any:
    """Call ``model(inputs)``, ``model(*inputs)`` or ``model(**inputs)``."""
    if isinstance(inputs, Tensor):
        return model(inputs)
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs)


def tensors_of(values: Any) -> list[Tensor]:
    """Return the tensors in a nested structure, in order."""
    return [leaf for leaf in pytree.tree_leaves(values) if isinstance(leaf, Tensor)]


def batch_size(inputs: Inputs, targets: Any) -> int:
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
    for name, found in (("inputs", tensors), ("targets", tensors_of(targets))):
        for tensor in found:
            if tensor.dim() == 0 or tensor.shape[0] != tensors[0].shape[0]:
                raise ValueError(
                    f"`{name}` must have the batch size {tuple(tensors[0].shape)[:1]} first, "
                    f"got shape {tuple(tensor.shape)}"
                )
    if tensors[0].shape[0] == 0:
        raise ValueError(f"`inputs` must not be empty, got shape {tuple(tensors[0].shape)}")
    return int(tensors[0].shape[0])


def check_finite(inputs: Inputs, checks: Checks) -> None:
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


def logits_of(outputs: Any) -> Tensor:
    """Return the logits among what a model returned, [N, C] for a classifier.

    Raises:
        TypeError: There are none.
    """
    found = outputs if isinstance(outputs, Tensor) else getattr(outputs, "logits", None)
    if not isinstance(found, Tensor):
        raise TypeError(f"`model` must return logits or an object with `.logits`, got {type(outputs).__name__}")
    return found
