"""The file format of checkpoints of `learn_to_unlearn`, see `fastforget.files.checked`.

The description holds the fingerprint of the model, the settings, how far the work got and its losses. Tensors:
"parameter/<name>"; "optimizer/<index of the parameter>/<name>"; "generator".
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

from torch import Tensor

from fastforget.files import checked
from fastforget.files.fields import Fields, check_fields, is_count, is_number, is_text, object_of

__all__ = ["read", "write"]

VERSION = 1
_FIELDS: Fields = {
    "before": ("a text", is_text),
    "evidence": ("an object of numbers", object_of(is_number)),
    "settings": ("an object of numbers and texts", object_of(lambda value: is_number(value) or is_text(value))),
    "step": ("a count", is_count),
}


def write(path: str | PathLike[str], description: dict[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write a checkpoint.

    Args:
        path: The file; overwritten if it exists.
        description: Plain data.
        tensors: By name.
    """
    checked.write(path, "checkpoint", VERSION, description, tensors)


def read(path: str | PathLike[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a checkpoint.

    Args:
        path: The file.

    Returns:
        The description and the tensors by name.

    Raises:
        ValueError: The file is truncated, changed, foreign or of a newer version.
    """
    description, tensors = checked.read(path, "checkpoint", VERSION)
    check_fields("checkpoint", description, _FIELDS)
    return description, tensors
