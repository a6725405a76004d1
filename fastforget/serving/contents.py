"""What the records of an archive's log say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from typing import Any

from fastforget.errors import ForgettingError
from fastforget.serving.history import Entry, Request

__all__ = ["Contents"]

_ACTIONS = ("forget", "apply", "revert")


@dataclass
class Contents:
    """What records say, whose hashes fit, but which anybody may have written.

    Attributes:
        entries: The edits.
        digests: SHA-256 of the files of each edit, by their folder.
        requests: Those asked for, by name.
        expired: Edits whose old values were removed.
    """

    entries: list[Entry] = field(default_factory=list)
    digests: dict[int, dict[str, str]] = field(default_factory=dict)
    requests: dict[str, Request] = field(default_factory=dict)
    expired: set[int] = field(default_factory=set)

    def followed_by(self, records: Iterable[Mapping[str, Any]]) -> Contents:
        """Return these with more records taken in; these stay as they are, since other threads read them.

        Args:
            records: In their order.

        Returns:
            The new contents.

        Raises:
            ValueError: A record does not fit.
        """
        found = Contents(list(self.entries), dict(self.digests), dict(self.requests), set(self.expired))
        for record in records:
            found._add(record)
        return found

    def due(self, time: datetime) -> list[int]:
        """Return the edits whose old values must be gone by now, and are not."""
        return [
            entry.number
            for entry in self.entries
            if "undo" in self.digests[entry.number] and entry.number not in self.expired and entry.due(time)
        ]

    def asked_before(self, request: Request) -> Request | None:
        """Return the request that was asked for under the same name.

        Raises:
            ForgettingError: The name was used for something else.
        """
        known = self.requests.get(request.name)
        if known is None and any(entry.request == request.name for entry in self.entries):
            raise ForgettingError(f"an edit was made under the name {request.name!r} without a request")
        if known is not None and known.classes != request.classes:
            raise ForgettingError(f"{request.name!r} is the name of a request for classes {list(known.classes)}")
        return known

    def _add(self, record: Mapping[str, Any]) -> None:
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
        elif kind == "expired":
            self.expired.add(record["number"])

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
