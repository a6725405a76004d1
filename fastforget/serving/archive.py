"""The edits of a live model in a folder that several processes share, and that outlives them.

::

    FOLDER/
      requests.jsonl         what was asked for and done, see `fastforget.serving.log`
      requests.jsonl.head
      edits/000001.safetensors   the new values of each edit
      undo/000001.safetensors    the same with the old values, as long as the policy says
      editing                    locked by the process that edits
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from datetime import datetime
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

from fastforget.receipt import Receipt
from fastforget.serving.contents import Contents
from fastforget.serving.history import Entry, Request, now
from fastforget.serving.log import Position, RequestLog, read_on, sync

__all__ = ["LOG", "Archive", "ArchiveError"]

LOG = "requests.jsonl"

_RETRY = 0.01  # seconds
_APPENDING = 5.0  # seconds that another process may take for a line of the log
_Opened = TypeVar("_Opened")


class ArchiveError(ValueError):
    """What is in the folder of an archive is not what was written there."""


class Archive:
    """Keeps receipts and a record of them in a folder; any number of processes read and write it in turn.

    What was entered is decided: it is on the disk before any process makes the edit, so that one that dies meanwhile,
    and all others, come to it by `LiveModel.catch_up` or when they start. The folder holds what was forgotten as long
    as old values are kept in ``undo``: nobody else should be able to read it.

    Args:
        folder: Made if there is none.

    Raises:
        OSError: It cannot be made.
        ArchiveError: It has a log that is none, or was changed.

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
        self._seen: tuple[Position | None, Contents] = (None, Contents())
        self.entries()

    @property
    def log(self) -> Path:
        """The file of the log."""
        return self.folder / LOG

    @property
    def _edits(self) -> Path:
        return self.folder / "edits"

    @property
    def _undo(self) -> Path:
        return self.folder / "undo"

    def entries(self) -> Sequence[Entry]:
        """Return all edits, in order; what is new in the log is checked and read.

        Returns:
            The edits.

        Raises:
            OSError: The log cannot be read.
            ArchiveError: It was changed.
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
            ArchiveError: The file is not the one that was entered.
        """
        known = self._known()
        digests, due = known.digests[number], known.entries[number - 1].due(now())
        path = self._undo / _name(number)
        found = _content(path) if "undo" in digests and not due else None
        if found is None:
            path = self._edits / _name(number)
            found = path.read_bytes()
        if hashlib.sha256(found).hexdigest() != digests[path.parent.name]:
            raise ArchiveError(f"`{path}` must be the receipt of edit {number}: its SHA-256 is not that in the log")
        return Receipt.load(path)

    @contextmanager
    def writing(self, patience: float) -> Iterator[None]:
        """Keep other processes from editing; remove old values whose time is over.

        Args:
            patience: For how many seconds to wait for them.

        Raises:
            OSError: The archive cannot be written.
            TimeoutError: Another process did not end its edit in time.
        """
        file = os.open(self.folder / "editing", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            _insist(lambda: _locked(file), patience, f"another process edits `{self.folder}`")
            self._open().close()  # which settles a record that a process wrote and died
            self._sweep(now())
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # also where a child process, forked meanwhile, has the file open
            os.close(file)

    @contextmanager
    def entering(self, entry: Entry, receipt: Receipt | None) -> Iterator[None]:
        """Enter an edit before it is made inside; only while `writing`.

        Args:
            entry: The edit.
            receipt: What it changed; None for a revert.

        Raises:
            OSError: It cannot be written; nothing is entered.
            ValueError: The receipt could not be read again.
        """
        digests: dict[str, str] = {}
        try:
            if receipt is not None:
                digests["edits"] = _keep(receipt.without_undo(), self._edits / _name(entry.number))
                if receipt.reversible and not entry.due(now()):
                    digests["undo"] = _keep(receipt, self._undo / _name(entry.number))
            self._append({"kind": "edit", **asdict(entry), "sha256": digests})
        except BaseException:
            if entry.number > len(self.entries()):  # else it is entered, whatever came afterwards
                for part in (self._edits, self._undo):
                    (part / _name(entry.number)).unlink(missing_ok=True)
            raise
        yield

    def refuse(self, request: str, asked_by: str, classes: Sequence[int], reason: str) -> None:
        """Note a request that was not carried out; only while `writing`."""
        said = {"request": request, "asked_by": asked_by, "classes": list(classes), "reason": reason}
        self._append({"kind": "refused", **said})

    def ask(self, request: Request) -> Request:
        """Note a request that is to be carried out.

        Args:
            request: It is waiting.

        Returns:
            The request that there is of this name: this one, or an earlier one with what became of it.

        Raises:
            OSError: The log cannot be written.
            ForgettingError: The name was used for something else.
        """
        said = {"request": request.name, "asked_by": request.asked_by, "classes": list(request.classes)}
        with closing(self._open()) as log:
            known = self._known().asked_before(request)
            if known is None:
                log.append({"kind": "asked", **said, "asked": request.asked})
        return known or request

    def expire(self, time: datetime) -> None:
        """Remove the files of old values whose time is over, and what processes that died left behind.

        Args:
            time: With a time zone.

        Raises:
            OSError: A file cannot be removed.
            TimeoutError: Another process did not end its edit in time.
        """
        if self._known().due(time) or self._orphans():
            with self.writing(_APPENDING):
                self._sweep(time)

    def _sweep(self, time: datetime) -> None:
        for path in self._orphans():
            path.unlink(missing_ok=True)
        for number in self._known().due(time):
            (self._undo / _name(number)).unlink(missing_ok=True)
            sync(self._undo)
            self._append({"kind": "expired", "number": number})

    def _orphans(self) -> list[Path]:
        """Files of edits that were never entered, or are being entered."""
        known = {_name(entry.number) for entry in self.entries()}
        return [path for part in (self._edits, self._undo) for path in part.iterdir() if path.name not in known]

    def _open(self) -> RequestLog:
        self._known()

        def opened() -> RequestLog | None:
            try:
                return RequestLog(self.log, self._seen[0])
            except BlockingIOError:
                return None

        return _insist(opened, _APPENDING, f"another process writes to `{self.log}`")

    def _append(self, fields: Mapping[str, Any]) -> None:
        with closing(self._open()) as log:
            log.append(fields)

    def _known(self) -> Contents:
        position, contents = self._seen
        try:
            records, position = read_on(self.log, position)
            if records:
                contents = contents.followed_by(record.fields for record in records)
                self._seen = position, contents  # at once: other threads read it
        except ArchiveError:
            raise
        except (ValueError, TypeError, KeyError) as error:
            raise ArchiveError(str(error)) from error
        return contents


def _insist(attempt: Callable[[], _Opened | None], patience: float, otherwise: str) -> _Opened:
    """Try again until it succeeds, for so many seconds."""
    end = time.monotonic() + patience
    while (found := attempt()) is None:
        if time.monotonic() > end:
            raise TimeoutError(f"{otherwise}; try again")
        time.sleep(_RETRY)
    return found


def _locked(file: int) -> bool | None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    return True


def _keep(receipt: Receipt, path: Path) -> str:
    """Write a file that outlives a loss of power and can be read again; return its SHA-256."""
    receipt.save(path)
    path.chmod(0o600)
    sync(path)
    sync(path.parent)
    Receipt.load(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:  # it may have expired just now
        return None


def _name(number: int) -> str:
    return f"{number:06d}.safetensors"
