"""The settings of a rule, as a receipt records them."""

from __future__ import annotations

from collections.abc import Mapping

from fastforget.files.fields import is_number, is_text

__all__ = ["read_settings"]


def read_settings(rule: str, settings: Mapping[str, float | str] | None) -> dict[str, float | str]:
    """Return the settings of a rule as a file can hold them.

    Args:
        rule: Its name.
        settings: By name; None for none.

    Returns:
        The settings.

    Raises:
        TypeError: The rule is no text, or a setting is neither a number nor a text.
    """
    if not isinstance(rule, str):
        raise TypeError(f"`rule` must be a text, got {type(rule).__name__}")
    said = dict(settings or {})
    for name, value in said.items():
        if not is_text(name) or not (is_number(value) or is_text(value)):
            raise TypeError(f"`settings` must hold numbers and texts by name, got {value!r} for {name!r}")
    return said
