"""Where rows are kept the moment they are done: a file of JSON lines."""

from __future__ import annotations

import json
import os
from pathlib import Path

from fastforget.comparison.rows import Row

__all__ = ["RowStore"]


class RowStore:
    """Rows in a file, a line each. A last line that is not whole is dropped: its writer was interrupted.

    Args:
        path: The file; it need not exist yet.

    Raises:
        ValueError: A whole line is no row.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        text = path.read_bytes() if path.exists() else b""
        self._whole = text.rfind(b"\n") + 1
        self._rows: dict[str, Row] = {}
        for number, line in enumerate(text[: self._whole].splitlines(), 1):
            try:
                row = Row.read(json.loads(line))
            except (ValueError, RecursionError) as error:
                raise ValueError(f"`{path}` must have a row in each line, but line {number}: {error}") from error
            self._rows[row.key] = row

    def get(self, key: str) -> Row | None:
        """Return the row with a key, or None."""
        return self._rows.get(key)

    def add(self, row: Row) -> None:
        """Write a row, to the disk, before anything else is done."""
        line = json.dumps(row.describe()).encode() + b"\n"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("r+b" if self._path.exists() else "xb") as file:
            file.truncate(self._whole)
            file.seek(self._whole)
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self._whole += len(line)
        self._rows[row.key] = row
