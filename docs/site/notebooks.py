"""Executed notebooks as Markdown: text as it is, code in fences, and the outputs that are stored beside it."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Cell = dict[str, Any]


def text_of(lines: str | list[str]) -> str:
    """Return what a notebook stores as one text or as lines."""
    return lines if isinstance(lines, str) else "".join(lines)


def shown(output: Cell) -> Iterator[str]:
    """Yield the Markdown of an output: the richest form that a page can show."""
    if output["output_type"] == "error":
        raise ValueError(f"a stored notebook must have run to its end, got {output['ename']}: {output['evalue']}")
    data = output.get("data", {})
    if "image/png" in data:
        picture = text_of(data["image/png"]).replace("\n", "")
        yield f'<img alt="output of the code above" src="data:image/png;base64,{picture}">'
    elif "text/html" in data:
        yield f'<div class="output">{text_of(data["text/html"])}</div>'
    else:
        text = text_of(output["text"] if "text" in output else data["text/plain"]).rstrip()
        yield f'<pre class="output">{html.escape(text)}</pre>'


def as_markdown(path: Path) -> str:
    """Return the page of a notebook file."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    parts = []
    for cell in notebook["cells"]:
        source = text_of(cell["source"]).strip()
        if cell["cell_type"] == "markdown":
            parts.append(source)
        elif source:
            parts.append(f"```python\n{source}\n```")
            # A blank line within HTML would end it for Markdown.
            parts += [
                "\n".join(line or "&#8203;" for line in part.split("\n"))
                for out in cell["outputs"]
                for part in shown(out)
            ]
    return "\n\n".join(parts) + "\n"
