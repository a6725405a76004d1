"""What a live model asks of whatever keeps its history."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from os import PathLike
from typing import Protocol

from fastforget.edits.receipt import Receipt
from fastforget.serving.history.archive import Archive
from fastforget.serving.history.entries import Entry
from fastforget.serving.history.memory import Memory
from fastforget.serving.history.proofs import HeadProof, RecordProof
from fastforget.serving.history.records import Record
from fastforget.serving.history.requests import Request

__all__ = ["History", "HistoryWriter", "open_history"]


class HistoryWriter(Protocol):
    """Makes entries in a history; `History.writing` gives it to one process at a time."""

    def enter(self, entry: Entry, receipt: Receipt | None, make: Callable[[], None]) -> None:
        """Enter an edit and make it; an `Archive` enters it first, so that others make it if this process crashes."""

    def refuse(self, request: str, asked_by: str, classes: Sequence[int], reason: str) -> None:
        """Note a request that was not carried out."""


class History(Protocol):
    """Where the edits of a live model are kept: the `Memory` of one process, or an `Archive` that several share."""

    def entries(self) -> Sequence[Entry]:
        """Return all edits, in order."""

    def receipt(self, number: int) -> Receipt:
        """Return the receipt of an edit that is no revert, with the old values if they are still kept."""

    def requests(self) -> Sequence[Request]:
        """Return the requests that were filed, in order, with what became of them."""

    def records(self) -> Sequence[Record]:
        """Return all records, the first one, which says what the file is, before them; none where there is no file."""

    def ask(self, request: Request) -> Request:
        """File a request that is to be carried out; return the one that there is of its name."""

    def proof(self, name: str) -> RecordProof | None:
        """Return the proof that a request is on record; None where nothing outlives the process."""

    def head(self, since: int) -> HeadProof | None:
        """Return the head of the log, and the proof that it begins with so many records; None likewise."""

    def writing(self, patience: float) -> AbstractContextManager[HistoryWriter]:
        """Keep other processes from editing, after waiting so many seconds for them; remove old values that are due."""

    def expire(self, time: datetime) -> None:
        """Remove old values whose time is over."""


def open_history(archive: Archive | str | PathLike[str] | None) -> History:
    """Return the archive, the one in the folder of this name, or a memory where there is none."""
    if archive is None:
        return Memory()
    return archive if isinstance(archive, Archive) else Archive(archive)
