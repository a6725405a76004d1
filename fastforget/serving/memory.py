"""The edits of a live model, kept as long as its process lives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any

from fastforget.receipt import Receipt
from fastforget.serving.contents import Contents
from fastforget.serving.history import Entry, Request, now

__all__ = ["Memory"]


class Memory:
    """Keeps the edits as long as the process lives."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._receipts: dict[int, Receipt] = {}
        self._requests: dict[str, Request] = {}

    def entries(self) -> Sequence[Entry]:
        """Return all edits, in order."""
        return self._entries

    def receipt(self, number: int) -> Receipt:
        """Return the receipt of an edit that is no revert, with the old values if they are still kept."""
        found = self._receipts[number]
        return found.without_undo() if self._entries[number - 1].due(now()) else found

    @contextmanager
    def writing(self, patience: float) -> Iterator[None]:  # noqa: ARG002 (the signature of a History)
        """Let the caller write."""
        self.expire(now())
        yield

    @contextmanager
    def entering(self, entry: Entry, receipt: Receipt | None) -> Iterator[None]:
        """Enter an edit once it was made inside: nobody else could have made it meanwhile."""
        yield
        self._entries = [*self._entries, entry]
        if receipt is not None:
            self._receipts[entry.number] = _near(receipt)
        self._answer(entry.request, state="done", version=entry.number)

    def refuse(self, request: str, asked_by: str, classes: Sequence[int], reason: str) -> None:  # noqa: ARG002
        """Note why a request that was asked for was not carried out; there is no record of others."""
        self._answer(request, state="refused", reason=reason)

    def ask(self, request: Request) -> Request:
        """Note a request that is to be carried out; return the one that there is of its name."""
        known = Contents(self._entries, requests=self._requests).asked_before(request)
        return self._requests.setdefault(request.name, request) if known is None else known

    def requests(self) -> Sequence[Request]:
        """Return the requests that were asked for, in order, with what became of them."""
        return list(self._requests.values())

    def _answer(self, name: str, **change: Any) -> None:
        if name in self._requests:
            self._requests[name] = replace(self._requests[name], **change)

    def expire(self, time: datetime) -> None:
        """Remove old values whose time is over."""
        for entry in self._entries:
            if entry.number in self._receipts and entry.due(time):
                self._receipts[entry.number] = self._receipts[entry.number].without_undo()


def _near(receipt: Receipt) -> Receipt:
    """Return the receipt on the CPU: a device has room for the model, not for all that was ever changed of it."""
    parts = ("indices", "old", "new")
    edits = {
        name: replace(edit, **{part: value.cpu() for part in parts if (value := getattr(edit, part)) is not None})
        for name, edit in receipt.edits.items()
    }
    return replace(receipt, edits=edits)
