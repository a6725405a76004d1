"""The edits of a live model in a folder that several processes share, and that outlives them.

::

    FOLDER/
      requests.jsonl         what was asked for and done, see `fastforget.serving.log`
      requests.jsonl.head
      edits/000001.safetensors   the new values of each edit
      undo/000001.safetensors    the same with the old values, as long as the policy says
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime
from os import PathLike
from pathlib import Path
from typing import Any

from fastforget.receipt import Receipt
from fastforget.serving.history import Entry, Request, now
from fastforget.serving.log import RequestLog, read_log, sync_folder

__all__ = ["Archive"]

_ACTIONS = ("forget", "apply", "revert")
_RETRY = 0.02  # seconds


class Archive:
    """Keeps receipts and a record of them in a folder; any number of processes read and write it in turn.

    What was entered is decided: it is on the disk before any process makes the edit, so that one that dies meanwhile,
    and all others, come to it by `LiveModel.catch_up` or when they start. The folder holds what was forgotten as long
    as old values are kept in ``undo``: nobody else should be able to read it.

    Args:
        folder: Made if there is none.

    Raises:
        OSError: It cannot be made.
        ValueError: It has a log that is none, or was changed.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     len(Archive(folder).entries())
        0
    """

    def __init__(self, folder: str | PathLike[str]) -> None:
        self.folder = Path(folder)
        for part in (self.folder, self._edits, self._undo):
            part.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._log: RequestLog | None = None
        self._state: Any = None
        self._read = _Contents()
        self.entries()

    @property
    def log(self) -> Path:
        """The file of the log."""
        return self.folder / "requests.jsonl"

    @property
    def _edits(self) -> Path:
        return self.folder / "edits"

    @property
    def _undo(self) -> Path:
        return self.folder / "undo"

    def entries(self) -> Sequence[Entry]:
        """Return all edits, in order; the log is checked and read when it has changed.

        Returns:
            The edits.

        Raises:
            OSError: The log cannot be read.
            ValueError: It was changed.
        """
        return self._known().entries

    def requests(self) -> Sequence[Request]:
        """Return the requests that were asked for, in order, with what became of them; as `entries`."""
        return list(self._known().requests.values())

    def receipt(self, number: int) -> Receipt:
        """Return the receipt of an edit that is no revert, with the old values if they are still kept.

        Args:
            number: Of the edit.

        Returns:
            The receipt.

        Raises:
            OSError: Its file is missing.
            ValueError: The file is not the one that was entered.
        """
        known = self._known()
        path = self._undo / _name(number)
        if known.entries[number - 1].due(now()) or not path.exists():
            path = self._edits / _name(number)
        if _digest(path) != known.digests[number].get(path.parent.name):
            raise ValueError(f"`{path}` must be the receipt of edit {number}: its SHA-256 is not that in the log")
        return Receipt.load(path)

    @contextmanager
    def writing(self, patience: float) -> Iterator[None]:
        """Keep other processes from writing; remove old values whose time is over.

        Args:
            patience: For how many seconds to wait for them.

        Raises:
            OSError: The log cannot be written.
            TimeoutError: Another process did not end its edit in time.
        """
        self._log = _opened(self.log, time.monotonic() + patience)
        try:
            self._sweep(now())
            yield
        finally:
            self._log.close()
            self._log = None

    @contextmanager
    def entering(self, entry: Entry, receipt: Receipt | None) -> Iterator[None]:
        """Enter an edit before it is made inside; only while `writing`."""
        digests: dict[str, str] = {}
        try:
            if receipt is not None:
                digests["edits"] = _keep(receipt.without_undo(), self._edits / _name(entry.number))
                if receipt.reversible and not entry.due(now()):
                    digests["undo"] = _keep(receipt, self._undo / _name(entry.number))
            self._open().append({"kind": "edit", **asdict(entry), "sha256": digests})
        except BaseException:
            for part in (self._edits, self._undo):
                (part / _name(entry.number)).unlink(missing_ok=True)
            raise
        yield

    def refuse(self, request: str, asked_by: str, classes: Sequence[int], reason: str) -> None:
        """Note a request that was not carried out; only while `writing`."""
        said = {"request": request, "asked_by": asked_by, "classes": list(classes), "reason": reason}
        self._open().append({"kind": "refused", **said})

    def ask(self, request: Request) -> None:
        """Note a request that is to be carried out; only while `writing`."""
        said = {"request": request.name, "asked_by": request.asked_by, "classes": list(request.classes)}
        self._open().append({"kind": "asked", **said, "asked": request.asked})

    def expire(self, time: datetime) -> None:
        """Remove the files of old values whose time is over, and note it.

        Args:
            time: With a time zone.

        Raises:
            OSError: A file cannot be removed.
            TimeoutError: Another process did not end its edit in time.
        """
        if self._due(time):
            with self.writing(5.0):
                self._sweep(time)

    def _due(self, time: datetime) -> list[Entry]:
        return [entry for entry in self.entries() if entry.due(time) and (self._undo / _name(entry.number)).exists()]

    def _sweep(self, time: datetime) -> None:
        """Remove what a process that died left behind, and old values whose time is over."""
        known = {_name(entry.number) for entry in self.entries()}
        for part in (self._edits, self._undo):
            for path in part.iterdir():
                if path.name not in known:
                    path.unlink()
        for entry in self._due(time):
            (self._undo / _name(entry.number)).unlink()
            sync_folder(self._undo)
            self._open().append({"kind": "expired", "number": entry.number})

    def _open(self) -> RequestLog:
        if self._log is None:
            raise ValueError("the archive must be `writing`")
        return self._log

    def _known(self) -> _Contents:
        state = _state(self.log.with_name(self.log.name + ".head"))
        if state is None and not (self.log.exists() and self.log.stat().st_size):
            return _Contents()
        if state != self._state or state is None:
            found = _Contents()
            for record in read_log(self.log, settled=True):
                found.add(record.fields)
            self._state, self._read = state, found
        return self._read


@dataclass
class _Contents:
    """What the records of a log say, whose hashes fit, but which anybody may have written."""

    entries: list[Entry] = field(default_factory=list)
    digests: dict[int, dict[str, str]] = field(default_factory=dict)
    requests: dict[str, Request] = field(default_factory=dict)

    def add(self, record: Mapping[str, Any]) -> None:
        """Take a record in."""
        kind = record.get("kind")
        if kind == "edit":
            entry = _entry(len(self.entries) + 1, record)
            self.entries.append(entry)
            self.digests[entry.number] = dict(record["sha256"])
            self._answer(entry.request, state="done", version=entry.number)
        elif kind == "asked":
            name = record["request"]
            self.requests[name] = Request(name, tuple(record["classes"]), record["asked_by"], record["asked"])
        elif kind == "refused":
            self._answer(record["request"], state="refused", reason=record["reason"])

    def _answer(self, name: str, **change: Any) -> None:
        if name in self.requests and self.requests[name].state == "waiting":
            self.requests[name] = replace(self.requests[name], **change)


def _entry(number: int, record: Mapping[str, Any]) -> Entry:
    known = {field.name for field in fields(Entry)}
    if not known | {"sha256"} <= record.keys() or record["number"] != number or record["action"] not in _ACTIONS:
        raise ValueError(f"the log must have edit {number} next, got {sorted(record)} of {record.get('number')!r}")
    if record["to"] is not None and not 0 <= record["to"] < number:
        raise ValueError(f"edit {number} of the log must go back to an earlier version, got {record['to']!r}")
    found = {name: value for name, value in record.items() if name in known}
    return Entry(**{**found, "classes": tuple(found["classes"])})


def _opened(path: Path, end: float) -> RequestLog:
    while (found := _free(path)) is None:
        if time.monotonic() > end:
            raise TimeoutError(f"another process writes to `{path}`; try again")
        time.sleep(_RETRY)
    return found


def _free(path: Path) -> RequestLog | None:
    """Open the log unless another process does."""
    try:
        return RequestLog(path)
    except BlockingIOError:
        return None


def _keep(receipt: Receipt, path: Path) -> str:
    """Write a file that outlives a loss of power, and return its SHA-256."""
    receipt.save(path)
    path.chmod(0o600)
    with path.open("rb") as file:
        os.fsync(file.fileno())
    sync_folder(path.parent)
    return _digest(path)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _name(number: int) -> str:
    return f"{number:06d}.safetensors"


def _state(path: Path) -> Any:
    """Return what differs after the file was written, None if there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
