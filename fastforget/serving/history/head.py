"""The head of a log: a file with number and hash of its last record, so that records dropped from the end are missed.

This module needs the standard library alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from fastforget.files.durable import sync
from fastforget.serving.history.records import Record, canonical

__all__ = ["check_head", "head_of", "read_head", "replace_durably", "write_head"]


def head_of(record: Record) -> str:
    """Return what the head says when a record is the last one."""
    return canonical({"number": record.number, "hash": record.hash}) + "\n"


def read_head(log: Path) -> str | None:
    """Return what the head of a log says; None if there is no head."""
    try:
        return _path(log).read_text("utf-8", errors="replace")  # what is no text is no head, and `check_head` says so
    except FileNotFoundError:
        return None


def write_head(log: Path, record: Record) -> None:
    """Replace the head of a log as a whole, durably.

    Args:
        log: The log.
        record: Its last record.

    Raises:
        OSError: The file cannot be written, and the head is as before; or its name did not reach the disk.
    """
    replace_durably(_path(log), head_of(record))


def replace_durably(path: Path, text: str) -> None:
    """Give a small file a new content as a whole; a process that is killed leaves at most ``<name>.unfinished``.

    Args:
        path: The file; nobody else writes to it meanwhile.
        text: The content.

    Raises:
        OSError: It cannot be written, and the file is as before; or its name did not reach the disk.
    """
    unfinished = path.with_name(path.name + ".unfinished")
    try:
        opened = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(opened, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
        sync(path.absolute().parent)
    finally:
        unfinished.unlink(missing_ok=True)


def check_head(log: Path, head: str | None, records: Sequence[Record]) -> int:
    """Check that a head fits its log; a killed process may have left it one record behind.

    Args:
        log: The log.
        head: What its head says.
        records: The last records of the log, at least two if it has two.

    Returns:
        The number of the record that the head names.

    Raises:
        ValueError: They do not fit.
    """
    if head is None:
        if records and records[-1].number:
            raise ValueError(f"`{_path(log)}` must be there, with the last record of `{log}`")
        return 0
    try:
        read = json.loads(head)
        number, digest = int(read["number"]), str(read["hash"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"`{_path(log)}` does not hold the number and the hash of a record: {error}") from error
    if not any((record.number, record.hash) == (number, digest) for record in records):
        raise ValueError(f"record {number} of `{log}` must have hash {digest}: records were dropped or changed")
    if records[-1].number > number + 1:
        raise ValueError(f"`{_path(log)}` is of record {number}, but `{log}` goes on to {records[-1].number}")
    return number


def _path(log: Path) -> Path:
    return log.with_name(log.name + ".head")
