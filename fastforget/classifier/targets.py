"""Classes of samples in the forms in which people have them."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import torch
from torch import Tensor

__all__ = ["as_classes", "check_class_targets", "kind_of"]

_LOSS_TAKES = (torch.int64, torch.uint8)


def as_classes(targets: Any) -> Any:
    """Return whole numbers as a tensor.

    Args:
        targets: A list or tuple of integers or of integer tensors without dimensions, a NumPy array of integers, or
            anything else.

    Returns:
        torch.int64 [N], on the CPU unless given as tensors; anything else as it was given.
    """
    if isinstance(targets, (list, tuple)) and targets:
        if all(isinstance(value, Integral) and not isinstance(value, bool) for value in targets):
            return torch.tensor([int(value) for value in targets])
        if all(isinstance(value, Tensor) and not value.dim() and value.dtype == torch.int64 for value in targets):
            return torch.stack(list(targets))
    is_array = hasattr(targets, "__array_interface__") and not isinstance(targets, Tensor)
    if is_array and targets.dtype.kind in "iu" and targets.ndim == 1:
        return torch.from_numpy(targets.astype("int64"))
    return targets


def check_class_targets(targets: Any, name: str) -> None:
    """Check that a classifier's own loss can take targets.

    Args:
        targets: A tensor of integers, or of probabilities.
        name: Of the argument.

    Raises:
        TypeError: They are no tensor, or one of another type.
    """
    if not isinstance(targets, Tensor) or not (targets.is_floating_point() or targets.dtype in _LOSS_TAKES):
        raise TypeError(f"`{name}` must be classes, torch.int64 [N], or probabilities [N, C], got {kind_of(targets)}")


def kind_of(value: object) -> str:
    """Return what a value is, for errors: a tensor's type and shape, a list's members."""
    if isinstance(value, Tensor):
        return f"{value.dtype} {tuple(value.shape)}"
    if isinstance(value, (tuple, list)):
        members = sorted({type(member).__name__ for member in value if not isinstance(member, Tensor)})
        of = f", of {' and '.join(members)}" if members and len(members) < 3 else ""
        return f"a {type(value).__name__} of {len(value)}{of}"
    dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", None)
    return type(value).__name__ if dtype is None or shape is None else f"{type(value).__name__} {dtype} {tuple(shape)}"
