"""Docstrings as Markdown: ours follow Google's style and are read in a terminal, where plain text comes first."""

from __future__ import annotations

import re
from typing import Any

import griffe

RULE = re.compile(r"^ *=+(?: +=+)+ *$", re.MULTILINE)
CODE = re.compile(r"((?:^(?: {4,}|>>> |\.\.\. ).*$)|`+[^`]+`+)", re.MULTILINE)


def table(text: str) -> str:
    """Return a table whose columns are given by rules of `=` as a table of Markdown."""
    rule, *lines = text.splitlines()
    starts = [column.start() for column in re.finditer("=+", rule)]
    ends = [*starts[1:], None]
    rows: list[list[str]] = []
    for line in lines[:-1]:
        if RULE.match(line):
            continue
        cells = [line[start:end].strip() for start, end in zip(starts, ends, strict=True)]
        if rows and (not cells[0] or rows[-1][0].endswith(",")):  # the row above goes on
            rows[-1] = [f"{cell} {more}".strip() for cell, more in zip(rows[-1], cells, strict=True)]
        else:
            rows.append(cells)
    if not any(RULE.match(line) for line in lines[:-1]):
        rows.insert(0, [""] * len(starts))  # without a head
    escaped = [[cell.replace("|", r"\|") for cell in row] for row in rows]
    head, *body = [f"| {' | '.join(row)} |" for row in escaped]
    return "\n".join([head, "| --- " * len(starts) + "|", *body])


def tables(text: str) -> str:
    """Return a docstring with its tables turned: each from its first rule to a rule with nothing after it."""
    return re.sub(
        r"^ *=+(?: +=+)+ *\n(?:.+\n)*? *=+(?: +=+)+ *(?=\n *\n|\n?\Z)",
        lambda found: table(found.group()),
        text,
        flags=re.MULTILINE,
    )


def as_markdown(text: str) -> str:
    """Return a docstring as Markdown."""
    text = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)
    text = tables(text)
    text = re.sub(r"^( *)::$\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"::$", ":", text, flags=re.MULTILINE)
    # Code stays as it is; elsewhere the star of `[C, *shape]` is no emphasis, and a page that is named becomes a link.
    parts = CODE.split(text)
    parts[::2] = [re.sub(r"(?<=[\s\[(])\*(?=\w+[\],])", r"\*", part) for part in parts[::2]]
    parts[::2] = [re.sub(r"\bdocs/([\w/-]+)\.md\b", r"[docs/\1](../\1.md)", part) for part in parts[::2]]
    return "".join(parts)


class AsMarkdown(griffe.Extension):
    """Turns every docstring when it has been read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Turn the docstring of an object."""
        if obj.docstring:
            obj.docstring.value = as_markdown(obj.docstring.value)
