"""The record of requests as tables for other programs and for people: CSV, JSON and HTML."""

from __future__ import annotations

import csv
import html
import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastforget.classifier.class_names import list_classes
from fastforget.serving.history.records import Record
from fastforget.serving.history.tree_head import TreeHead

__all__ = ["FORMATS", "exported"]

# The columns of tables. JSON has every field of a record beside them.
_COLUMNS = {
    "number": "Record",
    "time": "Time (UTC)",
    "kind": "What",
    "request": "Request",
    "classes": "Classes",
    "class_names": "Names of classes",
    "asked_by": "Asked by",
    "version": "Version",
    "outcome": "Outcome",
    "reason": "Reason",
    "undo": "Undo until",
    "hash": "Hash",
}
_KINDS = {
    "asked": "request filed",
    "edit": "model edited",
    "refused": "request refused",
    "expired": "old values removed",
    "key": "signed from here on",
    "another key": "another key signs from here on",
}
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what makes a spreadsheet compute a cell


def exported(
    records: Sequence[Record], form: str, names: Sequence[str] | None = None, head: TreeHead | None = None
) -> str:
    """Return the records of a log as a text.

    Args:
        records: All of them; the first one, which says what the file is, is left out.
        form: One of `FORMATS`.
        names: What classes 0, 1, ... are called; None where this is not known.
        head: Of the log, for the page and JSON.

    Returns:
        The text.

    Raises:
        ValueError: The form is none of these.
    """
    if form not in FORMATS:
        raise ValueError(f"the form must be one of {', '.join(FORMATS)}, got {form!r}")
    return FORMATS[form](records[1:], names, head)


def _csv(records: Sequence[Record], names: Sequence[str] | None, _: TreeHead | None) -> str:
    file = io.StringIO()
    writer = csv.writer(file)  # lines end as RFC 4180 has it
    writer.writerow(_COLUMNS)
    for record in records:
        cells = _cells(record, names)
        # free text, which a spreadsheet must not run
        writer.writerow([f"'{cell}" if cell.startswith(_FORMULA) else cell for cell in cells.values()])
    return file.getvalue()


def _json(records: Sequence[Record], names: Sequence[str] | None, head: TreeHead | None) -> str:
    rows = []
    for record in records:
        classes = record.fields.get("classes")
        named = {} if names is None or classes is None else {"class_names": list_classes(classes, names)}
        fields = {"fields": {**record.fields, **named}}
        rows.append({"number": record.number, "time": record.time, **fields, "hash": record.hash})
    content = {"format": "fastforget.export", "version": 1, "head": head and head.note, "records": rows}
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _html(records: Sequence[Record], names: Sequence[str] | None, head: TreeHead | None) -> str:
    columns = "".join(f'<th scope="col">{html.escape(title)}</th>' for title in _COLUMNS.values())
    rows = []
    for record in records:
        number, *cells = (html.escape(cell) for cell in _cells(record, names).values())
        rows.append(f'<tr><th scope="row">{number}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>')
    shown = f"<h2>Head of the log</h2><pre>{html.escape(head.note)}</pre>" if head else ""
    return _PAGE.format(columns=columns, rows="\n".join(rows), head=shown, count=len(records))


def _cells(record: Record, names: Sequence[str] | None) -> dict[str, str]:
    """Return the cells of a row, by column."""
    fields: Mapping[str, Any] = record.fields
    classes = fields.get("classes") or []
    called = list_classes(classes, names) if names else []
    kind = "another key" if fields.get("previous_key") else str(fields.get("kind", ""))
    found = {
        "number": record.number,
        "time": record.time,
        "kind": "went back to version " + str(fields["to"]) if fields.get("to") is not None else _KINDS.get(kind, kind),
        "request": fields.get("request"),
        "classes": ", ".join(map(str, classes)),
        "class_names": ", ".join(name or str(cls) for cls, name in zip(classes, called, strict=False)),
        "asked_by": fields.get("asked_by"),
        "version": fields.get("number"),
        "outcome": fields.get("outcome"),
        "reason": fields.get("reason"),
        "undo": fields.get("undo"),
        "hash": record.hash,
    }
    return {name: "" if found[name] is None else str(found[name]) for name in _COLUMNS}


FORMATS: Mapping[str, Callable[[Sequence[Record], Sequence[str] | None, TreeHead | None], str]] = {
    "csv": _csv,
    "json": _json,
    "html": _html,
}

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Record of forgetting requests</title>
<style>
  :root {{ color-scheme: light dark; }}
  body {{ font: 15px/1.5 system-ui, sans-serif; margin: 1.5rem; }}
  .wide {{ overflow-x: auto; }}
  table {{ border-collapse: collapse; }}
  th, td {{ text-align: left; vertical-align: top; padding: .3rem .6rem; border: 1px solid GrayText; }}
  td:last-child {{ font-family: ui-monospace, monospace; font-size: .8em; overflow-wrap: anywhere; min-width: 16em; }}
</style>
</head>
<body>
<main>
<h1>Record of forgetting requests</h1>
<p>{count} records. Each holds the hash of the one before.</p>
<div class="wide" tabindex="0" role="region" aria-label="Records">
<table>
<thead><tr>{columns}</tr></thead>
<tbody>
{rows}
</tbody>
</table>
</div>
{head}
</main>
</body>
</html>
"""
