"""Read rows from files, and write tables in Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from common import RESULTS, Row


def load(name: str) -> list[Row]:
    file = RESULTS / f"{name}.json"
    return json.loads(file.read_text())["rows"] if file.exists() else []


def markdown(header: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


def groups(rows: Iterable[Row], *keys: str) -> dict[tuple[object, ...], list[Row]]:
    found: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in keys), []).append(row)
    return found


def signed(*values: float) -> str:
    return ", ".join(f"{value:+.2f}" for value in values).replace("-", "\N{MINUS SIGN}")
