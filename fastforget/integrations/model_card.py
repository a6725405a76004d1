"""The section "Forgotten classes" of a model card."""

from __future__ import annotations

import re
from collections.abc import Sequence

from fastforget.auditing.report import AuditReport
from fastforget.edits.history import EditHistory, PastEdit

__all__ = ["forgotten_section", "with_section"]

_MEANING = (
    "This model was edited with fastforget so that it no longer predicts what the table names. That is not a proof "
    "that no trace of the data is left in the weights."
)
_BEGIN, _END = "<!-- fastforget: forgotten classes -->", "<!-- fastforget: end -->"


def forgotten_section(
    history: EditHistory, names: Sequence[str] | None, file: str, audit: AuditReport | None = None
) -> str:
    """Return the section, in Markdown.

    Args:
        history: The edits that led to the model, at least one.
        names: Of the classes, if they are known.
        file: The name of the file with the history.
        audit: What was measured after the last edit.

    Returns:
        The section, without the marks that `with_section` finds it by.
    """
    rows = [row for edit in history.edits for row in _rows(edit, names)]
    lines = [
        "## Forgotten classes",
        "",
        _MEANING,
        "",
        "| class | name | what was done | rule | when (UTC) |",
        "| --- | --- | --- | --- | --- |",
        *rows,
        "",
        f"`fastforget.fingerprint` of the model: `{history.edits[-1].after}`. All edits with their settings: `{file}`.",
    ]
    if audit is not None:
        found = [f"* {finding.kind}: {finding.text}" for finding in audit.findings]
        unknown = [f"* cannot judge {limit}" for limit in audit.cannot_judge]
        nothing = ["* nothing found that speaks against the model"]
        lines += ["", "What an audit found after the last edit:", "", *(found or nothing), *unknown]
    return "\n".join(lines)


def with_section(card: str, section: str) -> str:
    """Return a model card with a section in place of the one that was put there before, else at its end."""
    marked = f"{_BEGIN}\n\n{section}\n\n{_END}"
    old = re.compile(f"{re.escape(_BEGIN)}.*?{re.escape(_END)}", re.DOTALL)
    if old.search(card):
        return old.sub(lambda _: marked, card, count=1)
    return f"{card.rstrip()}\n\n{marked}\n" if card.strip() else f"{marked}\n"


def _rows(edit: PastEdit, names: Sequence[str] | None) -> list[str]:
    done, when = edit.outcome or "not on record", edit.created.replace("T", " ")[:16]
    if not edit.classes:
        return [f"| samples | | {_cell(done)} | {_cell(edit.rule)} | {when} |"]
    known = dict(enumerate(names or ()))
    how = f"{_cell(done)} | {_cell(edit.rule)} | {when} |"
    return [f"| {cls} | {_cell(known.get(cls, ''))} | {how}" for cls in edit.classes]


def _cell(text: str) -> str:
    """Return a text as a cell of a table can hold it."""
    return re.sub(r"\s+", " ", text).replace("|", "\\|").replace("<", "&lt;").strip()
