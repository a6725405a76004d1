"""A record of forgetting requests that shows if it was changed: JSON lines, each with the hash of the one before.

Only the standard library is needed, and no other module of this package.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from os import PathLike
from pathlib import Path
from typing import Any

__all__ = ["Position", "Record", "RequestLog", "read_log", "read_on", "sync", "verify_log"]

_FORMAT = {"format": "fastforget.log", "version": 1}
_NOTHING = "0" * 64


@dataclass(frozen=True)
class Record:
    """A line of a log.

    Attributes:
        number: Its place, from 0; 0 says what the file is.
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
        """Return it as it stands in the file."""
        return (_canonical(vars(self) | {"fields": dict(self.fields)}) + "\n").encode()


@dataclass(frozen=True)
class Position:
    """How far a log was read and checked.

    Attributes:
        size: Bytes.
        last: The last record before.
        head: What the head said.
    """

    size: int
    last: Record
    head: str | None


class RequestLog:
    """Appends records to a log; each is on the disk when `append` returns.

    A process that is killed at any moment loses no record that `append` returned for, and leaves at most an unfinished
    line, which is no record and is removed when the log is opened again. A file beside it, ``<name>.head``, holds
    number and hash of the last record, so that records dropped from the end are missed. One process writes at a time;
    ``contextlib.closing`` lets the next one.

    What it shows is that nobody changed the log who does not recompute it from there on, head included. Against those
    who can, keep the hash of a record elsewhere, and give it to `verify_log`.

    Args:
        path: The file; made if there is none.
        known: How far it was checked before, so that only the rest is.

    Raises:
        OSError: It cannot be opened, or another process writes to it.
        ValueError: It is not such a log, or was changed.
    """

    def __init__(self, path: str | PathLike[str], known: Position | None = None) -> None:
        self._path = Path(path)
        fresh = not self._path.exists()
        self._file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BlockingIOError(f"another process writes to `{self._path}`") from error
            if fresh:
                sync(self._path.absolute().parent)
            self._last = self._recover(known)
        except BaseException:
            os.close(self._file)
            raise

    def close(self) -> None:
        """Let another process write."""
        if self._file >= 0:
            fcntl.flock(self._file, fcntl.LOCK_UN)  # also where a child process, forked meanwhile, has the file open
            os.close(self._file)
            self._file = -1

    @property
    def last(self) -> Record:
        """The record that was written last."""
        return self._last

    def append(self, fields: Mapping[str, Any]) -> Record:
        """Write a record to the disk.

        Args:
            fields: What to record, as JSON knows it.

        Returns:
            The record.

        Raises:
            OSError: It could not be written, for instance for want of space; the log is as before.
            TypeError: A value is none that JSON knows.
            ValueError: A number is not finite, or the log is closed.
        """
        if self._file < 0:
            raise ValueError(f"the log `{self._path}` must be open")
        record = _record(self._last.number + 1, fields, self._last.hash)
        self._write(record)
        return record

    def _write(self, record: Record) -> None:
        # the head from before is on the disk now: after a loss of power it is behind by one record at most
        sync(self._path.absolute().parent)
        size, line = os.fstat(self._file).st_size, record.line()
        try:
            while line:
                line = line[os.write(self._file, line) :]
            os.fsync(self._file)
            _write_head(self._path, record)
        except BaseException:
            if _head_text(self._path) != _head_line(record):  # else it is in, whatever came afterwards
                os.ftruncate(self._file, size)
                raise
            self._last = record
            raise
        self._last = record

    def _recover(self, known: Position | None) -> Record:
        """Remove an unfinished line, check the rest, and return the last record, the first one if there is none."""
        start = known.size if known else 0
        data = _read_from(self._path, start)
        whole = data.rfind(b"\n") + 1
        records = [*([known.last] if known else []), *_parsed(data[:whole], self._path, known.last if known else None)]
        told = _check_head(self._path, _head_text(self._path), records)
        if whole < len(data):
            os.ftruncate(self._file, start + whole)
            os.fsync(self._file)
        if not records:
            self._write(_record(0, _FORMAT, _NOTHING))
            return self._last
        if told < records[-1].number:
            _write_head(self._path, records[-1])
        return records[-1]


def read_log(path: str | PathLike[str], *, settled: bool = False) -> list[Record]:
    """Return the records of a log, checked, the first one first; others may write to it meanwhile.

    Args:
        path: The file.
        settled: Leave out a last record that may not be on the disk yet.

    Returns:
        The records; an unfinished last line is none.

    Raises:
        OSError: There is none.
        ValueError: A record was changed, dropped, added or moved; says which.
    """
    file = Path(path)
    head, data = _at_rest(file, 0)
    records = list(_parsed(data, file))
    if not records:
        raise ValueError(f"`{file}` must be a log of this library, got an empty file")
    last = _check_head(file, head, records)
    return records[: last + 1] if settled else records


def read_on(path: str | PathLike[str], known: Position | None) -> tuple[list[Record], Position | None]:
    """Return the records that came since a log was read and are on the disk; what was read is not checked again.

    Args:
        path: The file.
        known: How far it was read; None from the beginning.

    Returns:
        The records, and how far it was read now; None where there is nothing yet.

    Raises:
        OSError: It cannot be read.
        ValueError: As for `read_log`.
    """
    file = Path(path)
    if known and _head_text(file) == known.head:
        return [], known
    if known is None and _head_text(file) is None and not (file.exists() and b"\n" in file.read_bytes()):
        return [], None
    head, data = _at_rest(file, known.size if known else 0)
    found = list(_parsed(data, file, known.last if known else None))
    last = _check_head(file, head, [known.last, *found] if known else found)
    settled = [record for record in found if record.number <= last]
    if not settled:
        return [], known
    size = (known.size if known else 0) + sum(len(record.line()) for record in settled)
    return settled, Position(size, settled[-1], head)


def _at_rest(path: Path, start: int) -> tuple[str | None, bytes]:
    """Return the head, and the whole lines from an offset on, at a moment when nobody wrote."""
    while True:
        head = _head_text(path)
        data = _read_from(path, start)
        if _head_text(path) == head:
            return head, data[: data.rfind(b"\n") + 1]


def _read_from(path: Path, start: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read()


def verify_log(path: str | PathLike[str], known: str | None = None) -> int:
    """Check a log.

    Args:
        path: The file.
        known: Hash of a record that must be in it, kept elsewhere.

    Returns:
        How many records it holds, beside the first.

    Raises:
        OSError: There is none.
        ValueError: As for `read_log`, or the known record is missing.
    """
    records = read_log(path)
    if known is not None and all(record.hash != known for record in records):
        raise ValueError(f"`{path}` must hold a record with hash {known}, got none")
    return len(records) - 1


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _record(number: int, fields: Mapping[str, Any], previous: str, time: str | None = None) -> Record:
    time = time or datetime.now(timezone.utc).isoformat(timespec="microseconds")
    content = {"number": number, "time": time, "fields": dict(fields), "previous": previous}
    content = json.loads(_canonical(content))  # as it will be read
    return Record(**content, hash=hashlib.sha256(_canonical(content).encode()).hexdigest())


def _parsed(data: bytes, path: Path, after: Record | None = None) -> Iterator[Record]:
    """Yield the records of whole lines, which follow a record."""
    previous, first = (after.hash, after.number + 1) if after else (_NOTHING, 0)
    for number, line in enumerate(data.splitlines(keepends=True), first):
        try:
            found = json.loads(line)
            expected = _record(found["number"], found["fields"], found["previous"], found["time"])
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


def _head(path: Path) -> Path:
    return path.with_name(path.name + ".head")


def _head_text(path: Path) -> str | None:
    try:
        return _head(path).read_text("utf-8")
    except FileNotFoundError:
        return None


def _check_head(path: Path, text: str | None, records: list[Record]) -> int:
    """Return the number of the record that the head is of; a killed process may have left it behind by one.

    Args:
        path: The log.
        text: What the head says.
        records: The last ones of the log, at least two if there are two.

    Returns:
        The number.

    Raises:
        ValueError: The log and its head do not fit.
    """
    if text is None:
        if records and records[-1].number:
            raise ValueError(f"`{_head(path)}` must be there, with the last record of `{path}`")
        return 0
    try:
        found = json.loads(text)
        number, digest = int(found["number"]), str(found["hash"])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"`{_head(path)}` does not hold the number and the hash of a record: {error}") from error
    if not any((record.number, record.hash) == (number, digest) for record in records):
        raise ValueError(f"record {number} of `{path}` must have hash {digest}: records were dropped or changed")
    if records[-1].number > number + 1:
        raise ValueError(f"`{_head(path)}` is of record {number}, but `{path}` goes on to {records[-1].number}")
    return number


def _write_head(path: Path, record: Record) -> None:
    unfinished = _head(path).with_name(_head(path).name + ".unfinished")
    try:
        made = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(made, "w", encoding="utf-8") as file:
            file.write(_head_line(record))
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(_head(path))
    finally:
        unfinished.unlink(missing_ok=True)


def _head_line(record: Record) -> str:
    return _canonical({"number": record.number, "hash": record.hash}) + "\n"


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, written to the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
