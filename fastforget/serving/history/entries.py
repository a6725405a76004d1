"""The edits of a live model in their order, and the versions that they make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

__all__ = ["Entry", "Version", "edit_path", "now", "timestamp", "versions"]


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
        request: Name of the request; no two edits have the same.
        asked_by: Who asked for it, or why: any text.
        undo: Until when the old values are kept, UTC, ISO 8601; None for ever.
        audit: What was measured before it was made.
        claims: What its receipt claims, see `fastforget.Receipt`; none for a revert, or where an older version of this
            library recorded it.
        outcome: The same in words, with what was short of its goal.
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
    claims: tuple[str, ...] = ()
    outcome: str = ""

    def due(self, time: datetime) -> bool:
        """Whether the old values must be gone by now."""
        return self.undo is not None and datetime.fromisoformat(self.undo) <= time


@dataclass(frozen=True)
class Version:
    """A state of the model.

    Attributes:
        number: 0 for the first; each edit and each way back makes a new one.
        fingerprint: Of the weights.
        created: When, UTC, ISO 8601.
        classes: All classes that are forgotten in it, each once, in the order of the edits.
        edits: Numbers of the edits that lead from version 0 to this one, in order.
        claims: Of the edit that made it, see `Entry`.
        outcome: Likewise.
        seconds: How long this process kept predictions out for it, after those inside had ended; 0 where a copy of the
            model answered them. Where it came to several versions at once, each has the time of all.
    """

    number: int
    fingerprint: str
    created: str
    classes: tuple[int, ...] = ()
    edits: tuple[int, ...] = ()
    claims: tuple[str, ...] = ()
    outcome: str = ""
    seconds: float = 0.0


def versions(known: Sequence[Version], entries: Sequence[Entry]) -> list[Version]:
    """Return the version before all edits, and the version that each edit makes.

    Args:
        known: The first of them, at least the one before all edits: these are taken as they are.
        entries: All edits.

    Returns:
        All versions.
    """
    made = list(known)
    for entry in entries[len(made) - 1 :]:
        if entry.to is None:
            edits = (*made[-1].edits, entry.number)
            classes = tuple(dict.fromkeys((*made[-1].classes, *entry.classes)))  # one may be forgotten again, deeper
        else:
            edits, classes = made[entry.to].edits, made[entry.to].classes
        made.append(Version(entry.number, entry.after, entry.created, classes, edits, entry.claims, entry.outcome))
    return made


def edit_path(start: Sequence[int], end: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
    """Return the edits to undo and then those to make, to come from one version to another.

    Args:
        start: Edits of the one.
        end: Edits of the other.

    Returns:
        Both in the order in which they are to be done.

    Example:
        >>> edit_path([1, 2, 3], [1, 4])
        ([3, 2], [4])
    """
    pairs = enumerate(zip(start, end, strict=False))
    common = next((place for place, (one, other) in pairs if one != other), min(len(start), len(end)))
    return start[common:][::-1], end[common:]


def now() -> datetime:
    """Return the time, UTC."""
    return datetime.now(timezone.utc)


def timestamp() -> str:
    """Return the time as records hold it: UTC, ISO 8601, milliseconds."""
    return now().isoformat(timespec="milliseconds")
