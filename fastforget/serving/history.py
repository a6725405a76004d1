"""What was done to a live model: the edits in order, where each came from, and the versions that they make."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any, Protocol

from fastforget.receipt import Receipt

__all__ = ["Entry", "History", "Request", "Version", "now", "versions"]


@dataclass(frozen=True)
class Entry:
    """An edit that was made.

    Attributes:
        number: Of the version that it makes, from 1.
        action: ``"forget"``, ``"apply"`` or ``"revert"``.
        before: Fingerprint of the weights before.
        after: Fingerprint of the weights after.
        created: When, UTC, ISO 8601.
        classes: What its receipt forgot.
        to: The version that a revert goes back to, else None.
        request: Name of the request, unlike any other.
        asked_by: Who asked for it, or why: any text.
        undo: Until when the old values are kept, UTC, ISO 8601; None for ever.
        audit: What was measured before it was made.
    """

    number: int
    action: str
    before: str
    after: str
    created: str
    classes: tuple[int, ...] = ()
    to: int | None = None
    request: str = ""
    asked_by: str = ""
    undo: str | None = None
    audit: Mapping[str, Any] = field(default_factory=dict)

    def due(self, time: datetime) -> bool:
        """Whether the old values must be gone by now."""
        return self.undo is not None and datetime.fromisoformat(self.undo) <= time


@dataclass(frozen=True)
class Request:
    """A request to forget that somebody filed.

    Attributes:
        name: Unlike that of any other.
        classes: What is to be forgotten.
        asked_by: Who asks for it, or why: any text.
        asked: When, UTC, ISO 8601.
        state: ``"waiting"``, ``"done"`` or ``"refused"``.
        version: The version that was made by it.
        reason: Why it was refused.
    """

    name: str
    classes: tuple[int, ...]
    asked_by: str
    asked: str
    state: str = "waiting"
    version: int | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Version:
    """A state of the model.

    Attributes:
        number: 0 for the first; each edit and each way back is a new one.
        fingerprint: Of the weights.
        created: When, UTC, ISO 8601.
        classes: All classes that are forgotten in it, in the order of the edits.
        edits: Numbers of the edits between version 0 and this one, in order.
        seconds: How long this process kept predictions out to come to it, or to a later one at once, after those inside
            had ended.
    """

    number: int
    fingerprint: str
    created: str
    classes: tuple[int, ...] = ()
    edits: tuple[int, ...] = ()
    seconds: float = 0.0


def versions(first: Version, entries: Sequence[Entry]) -> list[Version]:
    """Return the version that there was before all edits, and that which each edit makes."""
    found = [first]
    for entry in entries:
        made = Version(entry.number, entry.after, entry.created)
        if entry.to is None:
            edits, classes = (*found[-1].edits, entry.number), (*found[-1].classes, *entry.classes)
        else:
            edits, classes = found[entry.to].edits, found[entry.to].classes
        found.append(replace(made, edits=edits, classes=classes))
    return found


def now() -> datetime:
    """Return the time, UTC."""
    return datetime.now(timezone.utc)


class History(Protocol):
    """Where the edits of a live model are kept: the `Memory` of one process, or an `Archive` that several share."""

    def entries(self) -> Sequence[Entry]:
        """Return all edits, in order."""

    def receipt(self, number: int) -> Receipt:
        """Return the receipt of an edit that is no revert, with the old values if they are still kept."""

    @contextmanager
    def writing(self, patience: float) -> Iterator[None]:
        """Keep other processes from writing, after waiting so many seconds for them; remove old values that are due."""

    @contextmanager
    def entering(self, entry: Entry, receipt: Receipt | None) -> Iterator[None]:
        """Enter an edit that is made inside; only while `writing`."""

    def refuse(self, request: str, asked_by: str, classes: Sequence[int], reason: str) -> None:
        """Note a request that was not carried out; only while `writing`."""

    def ask(self, request: Request) -> Request:
        """Note a request that is to be carried out; return the one that there is of its name."""

    def requests(self) -> Sequence[Request]:
        """Return the requests that were asked for, in order, with what became of them."""

    def expire(self, time: datetime) -> None:
        """Remove old values whose time is over."""
