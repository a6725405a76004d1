"""What became of each request, as a person follows it: also deadlines, undoing and what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from fastforget.serving.history.entries import Entry, Version
from fastforget.serving.history.requests import Request

__all__ = ["Cases", "check_deadline"]

_LONGEST = 3650  # days


class Cases:
    """The requests on record, each with the edit that it led to and what was done to that later.

    Args:
        requests: All that were filed, in order.
        entries: All edits.
        versions: All versions that they make, from the first one.
        deadline: Days after filing by which a request is to be answered.
        time: Now.
    """

    def __init__(
        self,
        requests: Sequence[Request],
        entries: Sequence[Entry],
        versions: Sequence[Version],
        deadline: int,
        time: datetime,
    ) -> None:
        self._requests, self._deadline, self._time = requests, deadline, time
        known = entries[: versions[-1].number]  # another process may have entered more
        self._entries = {entry.number: entry for entry in known}
        self._current = versions[-1].edits
        self._versions = versions
        self._undone: dict[int, Entry] = {}
        for entry, before, after in zip(known, versions[:-1], versions[1:], strict=True):
            self._undone |= dict.fromkeys(set(before.edits) - set(after.edits), entry)

    def all(self) -> list[dict[str, Any]]:
        """Return all, the first one first: the fields of a request, and beside them those of `one` but for the last.

        Returns:
            Plain data for JSON.
        """
        return [self._described(request) for request in self._requests]

    def one(self, name: str) -> dict[str, Any] | None:
        """Return one.

        Args:
            name: Of the request.

        Returns:
            Its fields, where ``state`` may also be ``"reverted"``; ``deadline``; ``done``, when the edit was made;
            ``audit``, what was measured before; ``reverted``: when, into which version, and ``asked_by``; and ``undo``:
            whether it is ``possible``, ``until`` when (None for ever), and which ``also`` would be undone with it,
            since their edits were made later. None if there is no such request.
        """
        found = next((request for request in self._requests if request.name == name), None)
        return None if found is None else {**self._described(found), "undo": self._undo(found)}

    def way_back(self, name: str) -> tuple[int, list[str]]:
        """Return the version that undoing a request goes back to, and the names of what is undone with it.

        Args:
            name: Of the request.

        Returns:
            The number of the version, and the names.

        Raises:
            ValueError: There is nothing to undo.
        """
        found = next((request for request in self._requests if request.name == name), None)
        if found is None or found.version not in self._current:
            raise ValueError(f"request {name!r} must be carried out and not undone yet, to be undone")
        place = self._current.index(found.version)
        numbers = [version.number for version in self._versions if version.edits == self._current[:place]]
        return numbers[-1], [self._entries[edit].request for edit in self._current[place + 1 :]]

    def _described(self, request: Request) -> dict[str, Any]:
        entry = self._entries.get(request.version or 0)
        undone = None if entry is None else self._undone.get(entry.number)
        deadline = datetime.fromisoformat(request.asked) + timedelta(days=self._deadline)
        return {
            **asdict(request),
            "state": request.state if undone is None else "reverted",
            "deadline": deadline.isoformat(timespec="milliseconds"),
            "done": entry and entry.created,
            "audit": {} if entry is None else dict(entry.audit),
            "reverted": undone and {"time": undone.created, "version": undone.number, "asked_by": undone.asked_by},
        }

    def _undo(self, request: Request) -> Mapping[str, Any] | None:
        if request.version not in self._current:
            return None
        edits = [self._entries[edit] for edit in self._current[self._current.index(request.version) :]]
        ends = [entry.undo for entry in edits if entry.undo is not None]
        until = min(ends, key=datetime.fromisoformat, default=None)
        possible = until is None or datetime.fromisoformat(until) > self._time
        return {"possible": possible, "until": until, "also": [entry.request for entry in edits[1:]]}


def check_deadline(days: object) -> None:
    """Raise ValueError unless it is a number of days in which a request can be answered."""
    if isinstance(days, bool) or not isinstance(days, int) or not 1 <= days <= _LONGEST:
        raise ValueError(f"`deadline` must be a whole number of days, 1 to {_LONGEST}, got {days!r}")
