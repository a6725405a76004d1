"""The file format of membership models, see `fastforget.files.checked`.

The description holds `features`, `classes`, `hidden`, `area` and `unseen`; the tensors are those of the model's state.
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from fastforget.files import checked
from fastforget.files.fields import Fields, check_fields, is_number, is_text, list_of

__all__ = ["check_tensors", "read", "write"]

VERSION = 1
_LARGEST = 2**20  # a stranger's file must not ask for more memory than it brings


def _is_width(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _LARGEST


_FIELDS: Fields = {
    "features": ("a text", is_text),
    "classes": ("a number of classes", _is_width),
    "hidden": ("a list of widths", list_of(_is_width)),
    "area": ("a number", is_number),
    "unseen": ("a number in [0, 1], or NaN", lambda value: is_number(value) and not (value < 0 or value > 1)),  # type: ignore[operator]
}


def write(path: str | PathLike[str], description: dict[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write a membership model.

    Args:
        path: The file; overwritten if it exists.
        description: Plain data.
        tensors: The state of the model.
    """
    checked.write(path, "membership", VERSION, description, tensors)


def read(path: str | PathLike[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a membership model.

    Args:
        path: The file.

    Returns:
        The description and the tensors by name.

    Raises:
        ValueError: The file is truncated, changed, foreign or of a newer version.
    """
    description, tensors = checked.read(path, "membership", VERSION)
    check_fields("membership", description, _FIELDS)
    return description, tensors


def check_tensors(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Check that tensors are the state of such a model.

    Args:
        tensors: What was read.
        expected: Tensors of the right names and shapes.

    Raises:
        ValueError: They are not, or not finite.
    """
    shapes = {name: tuple(value.shape) for name, value in expected.items()}
    actual = {name: tuple(value.shape) for name, value in tensors.items()}
    if actual != shapes:
        raise ValueError(f"it must hold tensors of the shapes {shapes}, got {actual}")
    if {value.dtype for value in tensors.values()} not in ({torch.float32}, {torch.float64}):
        raise ValueError("its tensors must all be float32 or all float64")
    if not all(bool(value.isfinite().all()) for value in tensors.values()):
        raise ValueError("its tensors must be finite, got NaN or infinity")
