"""The rows of a comparison: what was measured of one method, with one seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from fastforget.files.fields import is_count, is_number, is_text, object_of

__all__ = ["Failure", "Row"]

_FIELDS = {
    "key": is_text,
    "seed": is_count,
    "method": is_text,
    "function": is_text,
    "settings": lambda value: isinstance(value, dict),
    "measures": object_of(lambda value: value is None or is_number(value)),
    "created": is_text,
    "versions": object_of(is_text),
}


@dataclass(frozen=True)
class Row:
    """What was measured of one method, with one seed.

    Attributes:
        key: What tells it from rows with other settings, samples or networks.
        seed: Of the original.
        method: What tables call the method.
        function: The function behind it; an empty text for a network that no method changed.
        settings: Its settings.
        measures: By name; None for what cannot be measured.
        created: When, UTC, ISO 8601.
        versions: Of this library and of PyTorch.
    """

    key: str
    seed: int
    method: str
    function: str
    settings: Mapping[str, Any]
    measures: Mapping[str, float | None]
    created: str
    versions: Mapping[str, str]

    @classmethod
    def read(cls, description: object) -> Row:
        """Return the row that plain data describe.

        Raises:
            ValueError: They describe none.
        """
        if not isinstance(description, dict) or description.keys() != _FIELDS.keys():
            raise ValueError(f"a row must have the fields {', '.join(_FIELDS)}")
        for name, accepts in _FIELDS.items():
            if not accepts(description[name]):
                raise ValueError(f"the field `{name}` of a row holds {description[name]!r}")
        return cls(**description)

    def called(self, name: str) -> Row:
        """Return the row with the name that the method has now."""
        return replace(self, method=name)

    def describe(self) -> dict[str, Any]:
        """Return the row as plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Failure:
    """A method that could not be measured.

    Attributes:
        seed: Of the original.
        method: What tables call the method.
        text: The error.
    """

    seed: int
    method: str
    text: str
