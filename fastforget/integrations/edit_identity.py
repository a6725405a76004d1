"""What the outputs for inventories and catalogues have in common: the name of an edit, and what it does not promise."""

from __future__ import annotations

import uuid

from fastforget.edits.receipt import Receipt

__all__ = ["LIMITATION", "check_name", "identifier"]

LIMITATION = (
    "This model was edited so that it no longer predicts the forgotten classes. That is not a proof that no trace of "
    "their data is left in the weights."
)


def check_name(what: str, name: str) -> None:
    """Check the name of a model or place.

    Args:
        what: Of the argument.
        name: The name.

    Raises:
        TypeError: It is no text.
        ValueError: It is empty.
    """
    if not isinstance(name, str):
        raise TypeError(f"`{what}` must be a text, got {type(name).__name__}")
    if not name.strip():
        raise ValueError(f"`{what}` must not be empty")


def identifier(receipt: Receipt, kind: str) -> uuid.UUID:
    """Return a number for an edit, the same whenever its receipt is read.

    Args:
        receipt: Of the edit.
        kind: Of the output, so that two do not share it.

    Returns:
        A UUID, of its fingerprints and time.
    """
    edit = "/".join((kind, receipt.before, receipt.after, receipt.created))
    return uuid.uuid5(uuid.NAMESPACE_URL, f"urn:fastforget:edit:{edit}")
