"""The arguments by which codes are drawn, checked."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence

__all__ = ["is_one_shape", "read_integer", "read_shapes", "read_vocabulary"]


def read_integer(name: str, value: object, low: int, high: int) -> int:
    """Check that an argument is an integer of some type, NumPy's too.

    Args:
        name: The argument's name.
        value: What was given.
        low: The smallest value.
        high: The first that is too large.

    Returns:
        The integer.

    Raises:
        TypeError: It is no integer.
        ValueError: It lies outside of [low, high).
    """
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"`{name}` must be an integer, got {value!r}") from None
    if not low <= number < high:
        raise ValueError(f"`{name}` must be in [{low}, {high}), got {number}")
    return number


def read_shapes(shape: object) -> list[tuple[int, ...]]:
    """Check the argument ``shape``.

    Args:
        shape: One shape, or a sequence or mapping of shapes.

    Returns:
        The shape of every input of the model, in order.

    Raises:
        TypeError: It is something else.
        ValueError: There is none, or a size is not positive.
    """
    parts: list[object] = [shape]
    if isinstance(shape, Mapping):
        parts = list(shape.values())
    elif isinstance(shape, Sequence) and not is_one_shape(shape):
        parts = list(shape)
    if not parts:
        raise ValueError("`shape` must hold at least one shape, got an empty mapping")
    shapes = []
    for part in parts:
        if not isinstance(part, Sequence):
            raise TypeError(f"`shape` must be a shape, or a sequence or mapping of shapes, got {shape!r}")
        shapes.append(tuple(read_integer("shape", size, 1, 2**63) for size in part))
    return shapes


def is_one_shape(shape: object) -> bool:
    """Return whether an argument is one shape: a sequence of sizes, of which () is one."""
    return isinstance(shape, Sequence) and not any(isinstance(size, Sequence) for size in shape)


def read_vocabulary(distribution: str, vocabulary: object) -> range:
    """Check the numbers that tokens are drawn from.

    Args:
        distribution: What the codes are drawn from.
        vocabulary: The argument.

    Returns:
        The numbers; none for other distributions than "tokens".

    Raises:
        TypeError: They are no range.
        ValueError: They are missing or out of range, or do not belong to the distribution.
    """
    if distribution != "tokens":
        if vocabulary is not None:
            raise ValueError(f'`vocabulary` must be left out with "{distribution}": it is what "tokens" are drawn from')
        return range(0)
    if not isinstance(vocabulary, range):
        raise TypeError(f'"tokens" must come with a range of them, `vocabulary`, got {vocabulary!r}')
    if not vocabulary or not all(0 <= end < 2**31 for end in (vocabulary[0], vocabulary[-1])):
        raise ValueError(f"`vocabulary` must hold numbers in [0, {2**31}), got {vocabulary}")
    return vocabulary
