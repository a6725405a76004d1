"""What the metadata of a checkpoint say of the edits that led to it.

Key: "fastforget.history". Value: a JSON object with `version`, and `edits`, a list of the attributes of `PastEdit`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from fastforget.files.fields import Fields, check_fields, is_count, is_number, is_text, list_of, object_of

__all__ = ["KEY", "read", "write"]

KEY, VERSION = "fastforget.history", 1


def write(edits: Sequence[dict[str, Any]]) -> str:
    """Return the text for edits, the first one first; the same for the same edits."""
    return json.dumps({"version": VERSION, "edits": list(edits)}, sort_keys=True)


def read(text: str) -> list[dict[str, Any]]:
    """Read and check such a text.

    Args:
        text: What the metadata hold.

    Returns:
        The edits, the first one first.

    Raises:
        ValueError: It is something else, or of a newer version.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or not is_count(content.get("version")):
        raise ValueError("it must be a JSON object with a version")
    if content["version"] > VERSION:
        raise ValueError(f"its version is {content['version']} and this fastforget knows {VERSION}: update fastforget")
    edits = content.get("edits")
    if not isinstance(edits, list) or not all(isinstance(edit, dict) for edit in edits):
        raise ValueError("its `edits` must be a list of objects")
    for edit in edits:
        check_fields("edit", edit, _FIELDS)
    return edits


_FIELDS: Fields = {
    "after": ("a text", is_text),
    "before": ("a text", is_text),
    "classes": ("a list of classes", list_of(is_count)),
    "codes": ("a text", is_text),
    "created": ("a text", is_text),
    "forgotten": ("a list of classes", list_of(is_count)),
    "outcome": ("a text", is_text),
    "rule": ("a text", is_text),
    "settings": ("an object of numbers and texts", object_of(lambda value: is_number(value) or is_text(value))),
    "versions": ("an object of texts", object_of(is_text)),
}
