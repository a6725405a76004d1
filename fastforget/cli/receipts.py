"""What commands say of a receipt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastforget.edits.receipt import Receipt

__all__ = ["receipt_description", "receipt_summary"]


def receipt_summary(receipt: Receipt) -> str:
    """Return a line for people."""
    names = ", ".join(map(str, receipt.classes))
    what = "samples" if not names else f"class {names}" if len(receipt.classes) == 1 else f"classes {names}"
    outcome = f": {receipt.outcome};" if receipt.outcome else ","
    return f"{what}{outcome} {receipt.changed:,} of {receipt.total:,} parameters changed ({receipt.share:.2%})"


def receipt_description(receipt: Receipt, path: Path) -> dict[str, Any]:
    """Return the result for programs."""
    description = {key: value for key, value in receipt.describe().items() if key != "shapes"}
    return {
        **description,
        "changed": receipt.changed,
        "reversible": receipt.reversible,
        "receipt": str(path),
    }
