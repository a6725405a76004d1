"""The history of a live model, kept as long as its process lives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime

from fastforget.edits.receipt import Receipt
from fastforget.serving.history.entries import Entry, now
from fastforget.serving.history.records import Record
from fastforget.serving.history.requests import Request, filed_before, note_edit, note_refusal

__all__ = ["Memory"]


class Memory:
    """Keeps the history as long as the process lives."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._receipts: dict[int, Receipt] = {}
        self._requests: dict[str, Request] = {}

    def entries(self) -> Sequence[Entry]:
        """Return all edits, in order."""
        return self._entries

    def receipt(self, number: int) -> Receipt:
        """Return the receipt of an edit that is no revert, with the old values if they are still kept."""
        receipt = self._receipts[number]
        return receipt.without_undo() if self._entries[number - 1].due(now()) else receipt

    def requests(self) -> Sequence[Request]:
        """Return the requests that were filed, in order, with what became of them."""
        return list(self._requests.values())

    def records(self) -> Sequence[Record]:
        """Return none: there is no file."""
        return ()

    def ask(self, request: Request) -> Request:
        """File a request that is to be carried out; return the one that there is of its name."""
        earlier = filed_before(request, self._requests, self._entries)
        return self._requests.setdefault(request.name, request) if earlier is None else earlier

    def proof(self, name: str) -> None:
        """Prove nothing: no record outlives the process."""

    def head(self, since: int) -> None:
        """Prove nothing."""

    @contextmanager
    def writing(self, patience: float) -> Iterator[Memory]:  # noqa: ARG002 (the signature of a History)
        """Let the caller write."""
        self.expire(now())
        yield self

    def enter(self, entry: Entry, receipt: Receipt | None, make: Callable[[], None]) -> None:
        """Enter an edit and make it. If it cannot be made, it is not entered; after an interrupt it is made later."""
        if receipt is not None:
            self._receipts[entry.number] = _on_cpu(receipt)
        self._entries = [*self._entries, entry]
        try:
            make()
        except Exception:
            self._entries = self._entries[:-1]
            self._receipts.pop(entry.number, None)
            raise
        finally:
            if len(self._entries) == entry.number:
                note_edit(self._requests, entry)

    def refuse(self, request: str, asked_by: str, classes: Sequence[int], reason: str) -> None:  # noqa: ARG002
        """Note why a request that was filed was not carried out; others leave no trace here."""
        note_refusal(self._requests, request, reason)

    def expire(self, time: datetime) -> None:
        """Remove old values whose time is over."""
        for entry in self._entries:
            if entry.number in self._receipts and entry.due(time):
                self._receipts[entry.number] = self._receipts[entry.number].without_undo()


def _on_cpu(receipt: Receipt) -> Receipt:
    """Move a receipt to the CPU: a device has room for the model, not for all that ever changed in it."""
    parts = ("indices", "old", "new")
    edits = {
        name: replace(edit, **{part: value.cpu() for part in parts if (value := getattr(edit, part)) is not None})
        for name, edit in receipt.edits.items()
    }
    return replace(receipt, edits=edits)
