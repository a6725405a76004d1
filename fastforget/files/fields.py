"""What the fields of a file's header may hold: predicates, and the check of a whole description."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

__all__ = ["Fields", "Predicate", "check_fields", "is_count", "is_number", "is_text", "list_of", "object_of"]

Predicate: TypeAlias = Callable[[object], bool]
Fields: TypeAlias = Mapping[str, tuple[str, Predicate]]  # by name: what the value must be, in words and as a predicate


def check_fields(what: str, description: Mapping[str, Any], fields: Fields) -> None:
    """Check a description; a checksum that anybody can compute does not make it trustworthy.

    Args:
        what: How to call it.
        description: What was read.
        fields: What it must hold.

    Raises:
        ValueError: A field is missing, unknown or of the wrong kind.
    """
    if description.keys() != fields.keys():
        raise ValueError(f"the header's `{what}` must have the fields {sorted(fields)}, got {sorted(description)}")
    for name, (kind, accepts) in fields.items():
        if not accepts(description[name]):
            raise ValueError(f"the header's `{name}` must be {kind}, got {description[name]!r}")


def is_count(value: object) -> bool:
    """Whether it is an integer that fits an index."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def is_number(value: object) -> bool:
    """Whether it is a number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_text(value: object) -> bool:
    """Whether it is a text."""
    return isinstance(value, str)


def list_of(accepts: Predicate) -> Predicate:
    """Return the predicate of lists whose items another one accepts."""
    return lambda value: isinstance(value, list) and all(map(accepts, value))


def object_of(accepts: Predicate) -> Predicate:
    """Return the predicate of JSON objects whose values another one accepts."""
    return lambda value: isinstance(value, dict) and all(map(accepts, value.values()))
