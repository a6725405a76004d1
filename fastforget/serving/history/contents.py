"""What the records of an archive's log say: how they are written, and what was done according to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from typing import Any

from fastforget.serving.history.entries import Entry
from fastforget.serving.history.requests import Request, note_edit, note_refusal

__all__ = ["Contents", "asked_record", "edit_record", "expired_record", "refused_record"]

_ACTIONS = ("forget", "apply", "revert")
_ENTRY_FIELDS = {field.name for field in fields(Entry)}
_LATER_FIELDS = {"claims", "outcome"}  # which logs of older versions lack


def edit_record(entry: Entry, digests: Mapping[str, str]) -> dict[str, Any]:
    """Return the record of an edit, with the SHA-256 of its files by their folder."""
    return {"kind": "edit", **asdict(entry), "sha256": dict(digests)}


def asked_record(request: Request) -> dict[str, Any]:
    """Return the record of a request that was filed."""
    return {
        "kind": "asked",
        "request": request.name,
        "asked_by": request.asked_by,
        "classes": list(request.classes),
        "asked": request.asked,
    }


def refused_record(request: str, asked_by: str, classes: Sequence[int], reason: str) -> dict[str, Any]:
    """Return the record of a request that was not carried out."""
    return {"kind": "refused", "request": request, "asked_by": asked_by, "classes": list(classes), "reason": reason}


def expired_record(number: int) -> dict[str, Any]:
    """Return the record of an edit whose old values were removed."""
    return {"kind": "expired", "number": number}


@dataclass
class Contents:
    """What records say. Their hashes fit, but anybody may have written them.

    Attributes:
        entries: The edits.
        digests: SHA-256 of the files of each edit, by their folder.
        requests: Those filed, by name.
        expired: Edits whose old values were removed.
        key: The public key that signs the log, base64; None where none does.
    """

    entries: list[Entry] = field(default_factory=list)
    digests: dict[int, dict[str, str]] = field(default_factory=dict)
    requests: dict[str, Request] = field(default_factory=dict)
    expired: set[int] = field(default_factory=set)
    key: str | None = None

    def followed_by(self, records: Iterable[Mapping[str, Any]]) -> Contents:
        """Return contents that take in more records; these stay as they are, since other threads read them.

        Args:
            records: In their order.

        Returns:
            The new contents.

        Raises:
            ValueError: A record does not fit.
        """
        later = Contents(list(self.entries), dict(self.digests), dict(self.requests), set(self.expired), self.key)
        for record in records:
            later._add(record)
        return later

    def due(self, time: datetime) -> list[int]:
        """Return the edits whose old values must be gone by now, and are not."""
        return [
            entry.number
            for entry in self.entries
            if "undo" in self.digests[entry.number] and entry.number not in self.expired and entry.due(time)
        ]

    def _add(self, record: Mapping[str, Any]) -> None:
        kind = record.get("kind")
        if kind == "edit":
            entry = _read_entry(len(self.entries) + 1, record)
            self.entries.append(entry)
            self.digests[entry.number] = dict(record["sha256"])
            note_edit(self.requests, entry)
        elif kind == "asked":
            name = record["request"]
            self.requests[name] = Request(name, tuple(record["classes"]), record["asked_by"], record["asked"])
        elif kind == "refused":
            note_refusal(self.requests, record["request"], record["reason"])
        elif kind == "expired":
            self.expired.add(record["number"])
        elif kind == "key":
            if self.key is not None and record.get("previous_key") != self.key:  # signatures are checked by the seal
                raise ValueError("the log must say that the key that signs it hands over, got a second key")
            self.key = str(record["public_key"])


def _read_entry(number: int, record: Mapping[str, Any]) -> Entry:
    if (
        not (_ENTRY_FIELDS - _LATER_FIELDS) | {"sha256"} <= record.keys()
        or record["number"] != number
        or record["action"] not in _ACTIONS
    ):
        raise ValueError(f"the log must have edit {number} next, got {sorted(record)} of {record.get('number')!r}")
    if record["to"] is not None and not 0 <= record["to"] < number:
        raise ValueError(f"edit {number} of the log must go back to an earlier version, got {record['to']!r}")
    values = {name: value for name, value in record.items() if name in _ENTRY_FIELDS}
    claims = tuple(values.pop("claims", ()))
    return Entry(**{**values, "classes": tuple(values["classes"]), "claims": claims})
