"""Small pieces of HTML, for what a notebook shows of an object. Colours are those of the notebook."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

__all__ = ["facts", "panel", "table"]

_CELL = "text-align:left;vertical-align:top;padding:.15em .8em .15em 0"


def panel(title: str, *parts: str) -> str:
    """Return parts below a title.

    Args:
        title: The title, as plain text.
        parts: HTML.

    Returns:
        HTML of one block.
    """
    head = f'<div style="font-weight:600;margin-bottom:.3em">{escape(title)}</div>'
    return f'<div style="max-width:60em">{head}{"".join(parts)}</div>'


def facts(named: Sequence[tuple[str, str]]) -> str:
    """Return facts with their names, a row each; those without a text are left out.

    Args:
        named: Names and texts, as plain text.

    Returns:
        HTML of a table.
    """
    rows = (
        f'<tr><th scope="row" style="{_CELL};font-weight:400;opacity:.7">{escape(name)}</th>'
        f'<td style="{_CELL}">{escape(text)}</td></tr>'
        for name, text in named
        if text
    )
    return f'<table style="border:0;border-collapse:collapse">{"".join(rows)}</table>'


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return a table, its first row the head.

    Args:
        rows: Cells, as plain text.

    Returns:
        HTML of a table.
    """
    head, *body = rows
    heads = "".join(f'<th scope="col" style="{_CELL}">{escape(cell)}</th>' for cell in head)
    lines = ("".join(f'<td style="{_CELL}">{escape(cell)}</td>' for cell in row) for row in body)
    return (
        '<table style="border-collapse:collapse;font-variant-numeric:tabular-nums">'
        f"<thead><tr>{heads}</tr></thead><tbody>{''.join(f'<tr>{line}</tr>' for line in lines)}</tbody></table>"
    )
