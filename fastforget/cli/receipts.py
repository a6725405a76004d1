"""What commands say of a receipt to programs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastforget.cli.words import in_command_words
from fastforget.edits.receipt import Receipt

__all__ = ["receipt_description"]


def receipt_description(receipt: Receipt, path: Path, names: Sequence[str] | None) -> dict[str, Any]:
    """Return the result for programs.

    Args:
        receipt: The receipt.
        path: Its file.
        names: What classes are called; None where this is not known.
    """
    description = {key: value for key, value in receipt.describe(names).items() if key != "shapes"}
    return {
        **description,
        "advice": in_command_words(receipt.advice),
        "changed": receipt.changed,
        "reversible": receipt.reversible,
        "receipt": str(path),
    }
