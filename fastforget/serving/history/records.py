"""Records that hold the hash of the one before, so that every change of one shows.

This module, `head` and `log` need the standard library alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

__all__ = ["Record", "canonical", "first_record", "make_record", "parse_records"]

_FORMAT = {"format": "fastforget.log", "version": 1}
_NO_HASH = "0" * 64


@dataclass(frozen=True)
class Record:
    """A line of a log.

    Attributes:
        number: Its place, from 0. Record 0 says what the file is.
        time: When it was written, UTC, ISO 8601.
        fields: What it records.
        previous: Hash of the record before, 64 hexadecimal digits; zeros for the first.
        hash: SHA-256 of all of these.
    """

    number: int
    time: str
    fields: Mapping[str, Any]
    previous: str
    hash: str

    def line(self) -> bytes:
        """Return the line that stands in the file."""
        return (canonical(vars(self) | {"fields": dict(self.fields)}) + "\n").encode()


def first_record() -> Record:
    """Return the record that begins every log: its format and version."""
    return make_record(0, _FORMAT, _NO_HASH)


def make_record(number: int, fields: Mapping[str, Any], previous: str, time: str | None = None) -> Record:
    """Return a record with its hash.

    Args:
        number: Its place.
        fields: What to record, as JSON knows it.
        previous: Hash of the record before.
        time: When it was written; now by default.

    Returns:
        The record, equal to what is read back.

    Raises:
        TypeError: JSON does not know a value.
        ValueError: A number is not finite.
    """
    time = time or datetime.now(timezone.utc).isoformat(timespec="microseconds")
    content = {"number": number, "time": time, "fields": dict(fields), "previous": previous}
    content = json.loads(canonical(content))  # as it will be read
    return Record(**content, hash=hashlib.sha256(canonical(content).encode()).hexdigest())


def parse_records(data: bytes, path: Path, after: Record | None = None) -> Iterator[Record]:
    """Check lines and yield their records.

    Args:
        data: Whole lines of a log.
        path: The log, for error messages.
        after: The record before; None where the data begin the log.

    Yields:
        The records, in order.

    Raises:
        ValueError: A record was changed, dropped, added or moved, or the file is no log.
    """
    previous, first = (after.hash, after.number + 1) if after else (_NO_HASH, 0)
    for number, line in enumerate(data.splitlines(keepends=True), first):
        try:
            read = json.loads(line)
            expected = make_record(read["number"], read["fields"], read["previous"], read["time"])
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(f"record {number} of `{path}` is none: {error}") from error
        if expected.line() != line:
            raise ValueError(f"record {number} of `{path}` was changed: its hash does not fit")
        if expected.previous != previous or expected.number != number:
            raise ValueError(
                f"record {number} of `{path}` does not follow the one before: one was dropped, added or moved"
            )
        if not number and dict(expected.fields) != _FORMAT:
            raise ValueError(f"`{path}` must be a log of version 1, got {dict(expected.fields)}")
        previous = expected.hash
        yield expected


def canonical(value: Any) -> str:
    """Return JSON text that is the same for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
