"""The numbers of classes that a caller names."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import Any

import torch

__all__ = ["read_classes"]


def read_classes(name: str, given: int | Sequence[int], total: int | None = None) -> tuple[int, ...]:
    """Check the classes that a caller named.

    Args:
        name: The argument's name.
        given: One class or several.
        total: The number of classes, C; None where it is not known.

    Returns:
        The classes in order; none where none are given.

    Raises:
        TypeError: They are no integers.
        ValueError: One is out of range or named twice.
    """
    values: list[Any] = [given]
    # Arrays and tensors without dimensions are Iterable by type, but cannot be iterated.
    if isinstance(given, Iterable) and getattr(given, "shape", None) != ():
        values = list(given)
    try:
        classes = [operator.index(value) for value in values]
    except TypeError as error:
        raise TypeError(f"`{name}` must be an int or a sequence of ints, got {given!r}") from error
    if any(isinstance(value, bool) or getattr(value, "dtype", None) == torch.bool for value in values):
        raise TypeError(f"`{name}` must be an int or a sequence of ints, got {given!r}")
    if len(set(classes)) != len(classes):
        raise ValueError(f"`{name}` must name each class once, got {classes}")
    if classes and (min(classes) < 0 or (total is not None and max(classes) >= total)):
        where = "be at least 0" if total is None else f"lie in [0, {total})"
        raise ValueError(f"`{name}` must {where}, got {classes}")
    return tuple(sorted(classes))
