"""A log of requests that shows whether it was changed: JSON lines, each with the hash of the one before.

This module and those that it imports need the standard library alone.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from fastforget.files.durable import sync
from fastforget.serving.history.head import check_head, head_of, read_head, write_head
from fastforget.serving.history.records import Record, first_record, make_record, parse_records

__all__ = ["Position", "RequestLog", "read_log", "read_since", "verify_log"]

# What file systems without hard links say.
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


@dataclass(frozen=True)
class Position:
    """How far a log was read and checked.

    Attributes:
        size: Bytes.
        last: The last record before it.
        head: What the head said.
    """

    size: int
    last: Record
    head: str | None


class RequestLog:
    """Appends records to a log; each is on the disk when `append` returns.

    A process may be killed at any moment, and power may fail: no record is lost for which `append` returned. At most an
    unfinished line is left, which is no record and is removed when the log is opened again. A second file,
    ``<name>.head``, holds number and hash of the last record, so that records dropped from the end are missed. One
    process writes at a time; ``contextlib.closing`` lets the next one write.

    The log shows every change, unless somebody computes it anew from there on, head included. Against that, keep the
    hash of a record elsewhere and give it to `verify_log`.

    Args:
        path: The file; made if there is none.
        known: How far it was checked before; only the rest is checked.

    Raises:
        OSError: It cannot be opened, or another process writes to it.
        ValueError: It is not such a log, or was changed.
    """

    def __init__(self, path: str | PathLike[str], known: Position | None = None) -> None:
        self._path = Path(path)
        if not self._path.exists():
            _begin(self._path)
        self._file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BlockingIOError(f"another process writes to `{self._path}`") from error
            self._size = 0  # of what is known to be there
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
            TypeError: JSON does not know a value.
            ValueError: A number is not finite, or the log is closed.
        """
        if self._file < 0:
            raise ValueError(f"the log `{self._path}` must be open")
        self._write(make_record(self._last.number + 1, fields, self._last.hash))
        return self._last

    def _write(self, record: Record) -> None:
        """Write a record and its head durably; an error leaves the log with both, or without the record."""
        size = os.fstat(self._file).st_size
        if size != self._size or not os.path.samestat(os.fstat(self._file), self._path.stat()):
            raise ValueError(f"`{self._path}` must end with record {self._last.number}, but somebody else changed it")
        try:
            _append(self._file, record.line())
            write_head(self._path, record)
        except BaseException:
            if read_head(self._path) == head_of(record):
                self._last, self._size = record, size + len(record.line())  # it is in, whatever came afterwards
            else:
                os.ftruncate(self._file, size)
            raise
        self._last, self._size = record, size + len(record.line())

    def _recover(self, known: Position | None) -> Record:
        """Check the log, remove an unfinished line, bring the head up to date, and return the last record."""
        start, after = (known.size, known.last) if known else (0, None)
        data = _read_on(self._path, known)
        whole = data.rfind(b"\n") + 1
        records = [*([after] if after else []), *parse_records(data[:whole], self._path, after)]
        head = read_head(self._path)
        named = check_head(self._path, head, records)
        if whole < len(data):
            os.ftruncate(self._file, start + whole)
            os.fsync(self._file)
        self._size = start + whole
        if not records:
            self._last = first_record()
            self._write(self._last)
            return self._last
        if head is None or named < records[-1].number:
            write_head(self._path, records[-1])
        return records[-1]


def read_log(path: str | PathLike[str], *, settled: bool = False) -> list[Record]:
    """Read and check all records of a log; others may write to it meanwhile.

    Args:
        path: The file.
        settled: Leave out a last record that may not be on the disk yet.

    Returns:
        The records, the first one first; an unfinished last line is none.

    Raises:
        OSError: There is no such file.
        ValueError: A record was changed, dropped, added or moved; says which.
    """
    file = Path(path)
    head, data = _read_at_rest(file, None)
    records = list(parse_records(data, file))
    if not records:
        raise ValueError(f"`{file}` must be a log of this library, got an empty file")
    named = check_head(file, head, records)
    return records[: named + 1] if settled else records


def read_since(path: str | PathLike[str], known: Position | None) -> tuple[list[Record], Position | None]:
    """Read and check the records that came since a log was read and are on the disk.

    Args:
        path: The file.
        known: How far it was read before; None for nothing.

    Returns:
        The records, and how far the log is read now; None where there is nothing yet.

    Raises:
        OSError: It cannot be read.
        ValueError: As for `read_log`.
    """
    file = Path(path)
    if known and read_head(file) == known.head:
        return [], known
    if known is None and read_head(file) is None and not (file.exists() and b"\n" in file.read_bytes()):
        return [], None
    start, after = (known.size, known.last) if known else (0, None)
    head, data = _read_at_rest(file, known)
    records = list(parse_records(data, file, after))
    named = check_head(file, head, [after, *records] if after else records)
    settled = [record for record in records if record.number <= named]
    if not settled:
        return [], known
    size = start + sum(len(record.line()) for record in settled)
    return settled, Position(size, settled[-1], head)


def verify_log(path: str | PathLike[str], known: str | None = None) -> int:
    """Check a log.

    Args:
        path: The file.
        known: Hash of a record that must be in it, kept elsewhere.

    Returns:
        The number of records beside the first.

    Raises:
        OSError: There is no such file.
        ValueError: As for `read_log`, or the known record is missing.
    """
    records = read_log(path)
    if known is not None and all(record.hash != known for record in records):
        raise ValueError(f"`{path}` must hold a record with hash {known}, got none")
    return len(records) - 1


def _begin(path: Path) -> None:
    """Make a log that holds its first record from the moment it is there: a killed process leaves no empty one."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    opened = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        _append(opened, first_record().line())
        with suppress(FileExistsError):  # another process was faster
            try:
                os.link(draft, path)
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                return  # the log begins empty, and gets its first record when it is opened
        sync(path.absolute().parent)
    finally:
        os.close(opened)
        draft.unlink(missing_ok=True)


def _append(file: int, content: bytes) -> None:
    """Write all of it to the end of an open file, and to the disk."""
    while content:
        content = content[os.write(file, content) :]
    os.fsync(file)


def _read_at_rest(path: Path, known: Position | None) -> tuple[str | None, bytes]:
    """Return the head, and the whole lines after what is known, at a moment when nobody writes."""
    while True:
        head = read_head(path)
        data = _read_on(path, known)
        if read_head(path) == head:
            return head, data[: data.rfind(b"\n") + 1]


def _read_on(path: Path, known: Position | None) -> bytes:
    """Return what comes after what is known, whose last record must still be there."""
    last = known.last.line() if known else b""
    with path.open("rb") as file:
        file.seek(known.size - len(last) if known else 0)
        data = file.read()
    if known and not data.startswith(last):
        raise ValueError(
            f"record {known.last.number} of `{path}` must be where it was: records were dropped or changed"
        )
    return data[len(last) :]
