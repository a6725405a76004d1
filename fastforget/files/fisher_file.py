"""The file format of Fisher diagonals, see `fastforget.files.checked`.

The description holds the attributes of `FisherDiagonal` that are no tensors, and the parameters' names in order.
Tensors: "fisher/<parameter>", "gradient/<parameter>" if there is one, and "losses".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from fastforget.files import checked
from fastforget.files.fields import Fields, check_fields, is_count, is_number, is_text, object_of

__all__ = ["read", "write"]

VERSION = 1
_GROUPS = ("fisher", "gradient")


def write(
    path: str | PathLike[str], description: dict[str, Any], groups: Mapping[str, Mapping[str, Tensor]], losses: Tensor
) -> None:
    """Write a Fisher diagonal.

    Args:
        path: The file; overwritten if it exists.
        description: Plain data.
        groups: The tensors by parameter, of "fisher" and "gradient"; the latter may be empty.
        losses: The losses.
    """
    tensors = {f"{group}/{name}": tensor for group, named in groups.items() for name, tensor in named.items()}
    description = {**description, "names": list(groups["fisher"])}
    checked.write(path, "fisher", VERSION, description, {**tensors, "losses": losses})


def read(path: str | PathLike[str]) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]], Tensor]:
    """Read a Fisher diagonal and check that it can be one.

    Args:
        path: The file.

    Returns:
        The description without the names, the tensors by parameter of "fisher" and "gradient", and the losses.

    Raises:
        ValueError: The file is truncated, changed, foreign or of a newer version.
    """
    description, tensors = checked.read(path, "fisher", VERSION)
    check_fields("fisher", description, _FIELDS)
    check_fields("definition", description["definition"], _DEFINITION)
    names, losses = description.pop("names"), tensors.pop("losses", None)
    present = [group for group in _GROUPS if group == "fisher" or any(key.startswith("gradient/") for key in tensors)]
    expected = sorted(f"{group}/{name}" for group in present for name in names)
    if expected != sorted(tensors):
        raise ValueError("the header and the tensors name different parameters")
    if losses is None or losses.dim() != 1 or not losses.is_floating_point():
        raise ValueError("it lacks the tensor 'losses'")
    groups = {group: {name: tensors[f"{group}/{name}"] for name in names if group in present} for group in _GROUPS}
    _check_values(groups, description["weight"])
    return description, groups, losses


def _check_values(groups: Mapping[str, Mapping[str, Tensor]], weight: float | list[float]) -> None:
    leading = [len(weight)] if isinstance(weight, list) else []
    for name, value in groups["fisher"].items():
        for group, tensor in ((g, named[name]) for g, named in groups.items() if named):
            if tensor.dtype not in (torch.float32, torch.float64) or list(tensor.shape[: len(leading)]) != leading:
                raise ValueError(
                    f"'{group}/{name}' must be float32 or float64 of shape ({', '.join([*map(str, leading), '...'])}), "
                    f"got {tensor.dtype} of {tuple(tensor.shape)}"
                )
            if tensor.shape != value.shape or tensor.dtype != value.dtype:
                raise ValueError(f"'{group}/{name}' must be of the dtype and shape of 'fisher/{name}'")
            if not bool(torch.isfinite(tensor).all()) or (group == "fisher" and bool((tensor < 0).any())):
                raise ValueError(f"'{group}/{name}' must be finite, and a Fisher not negative")


def _is_weight(value: object) -> bool:
    numbers = value if isinstance(value, list) and value else [value]
    return all(isinstance(number, float) and 0 <= number < math.inf for number in numbers)


def _are_names(value: object) -> bool:
    return isinstance(value, list) and all(map(is_text, value)) and len(set(value)) == len(value) > 0


_FIELDS: Fields = {
    "definition": ("an object", object_of(lambda _: True)),
    "fallback": ("an object of reasons", object_of(is_text)),
    "model": ("a text", is_text),
    "names": ("a list of names", _are_names),
    "reduction": ('"mean" or "sum"', lambda value: value in ("mean", "sum")),
    "samples": ("a count", is_count),
    "weight": ("a weight, or a list of them", _is_weight),
}
_DEFINITION: Fields = {
    "labels": ("a text", is_text),
    "loss": ("a text", is_text),
    "scale": ("a number", is_number),
    "square": ("a text", is_text),
}
