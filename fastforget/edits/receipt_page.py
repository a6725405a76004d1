"""What a notebook shows of a receipt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastforget.classifier.html_parts import facts, panel

__all__ = ["receipt_as_html"]

_MEANING = {
    "silenced": "its output bias was lowered; with another bias the class is back",
    "disconnected": "its output row is that of a class never seen; the features may still tell it apart",
    "dispersed": "the features of the samples given lie among those of others",
}


def receipt_as_html(summary: str, description: Mapping[str, Any], *, reversible: bool) -> str:
    """Return a block that says what an edit did, and what that claims.

    Args:
        summary: The receipt in a line, see `Receipt.summary`.
        description: The receipt as plain data, see `Receipt.describe`.
        reversible: Whether the old values were kept.

    Returns:
        HTML.
    """
    claims = [(claim, _MEANING[claim]) for claim in description["claims"]]
    when = f"{description['created']}, {description['seconds'].get('total', 0):.2f} s"
    undo = "receipt.revert(model); so it holds what was forgotten: store it accordingly"
    return panel(
        f"Receipt: {summary}",
        facts(
            [
                *claims,
                ("to go further", description["advice"]),
                ("undo", undo if reversible else "not kept"),
                ("rule", f"{description['rule']}, {when}"),
                ("model", f"{description['before'][:8]}\u2026 became {description['after'][:8]}\u2026"),
            ]
        ),
    )
