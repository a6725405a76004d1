"""Requests to forget that were filed, each under a name that is used once."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fastforget.errors import ForgettingError
from fastforget.serving.history.entries import Entry

__all__ = ["Request", "check_not_answered", "filed_before", "note_edit", "note_refusal"]


@dataclass(frozen=True)
class Request:
    """A request to forget that somebody filed.

    Attributes:
        name: No two requests have the same.
        classes: What is to be forgotten.
        asked_by: Who asks for it, or why: any text.
        asked: When, UTC, ISO 8601.
        state: ``"waiting"``, ``"done"`` or ``"refused"``.
        version: The version that was made by it.
        claims: What the edit claims, see `fastforget.Receipt`.
        outcome: The same in words, with what was short of its goal.
        reason: Why it was refused.
    """

    name: str
    classes: tuple[int, ...]
    asked_by: str
    asked: str
    state: str = "waiting"
    version: int | None = None
    claims: tuple[str, ...] = ()
    outcome: str = ""
    reason: str | None = None


def filed_before(request: Request, filed: Mapping[str, Request], entries: Sequence[Entry]) -> Request | None:
    """Return the request that was filed under the same name.

    Args:
        request: The new one.
        filed: Those filed, by name.
        entries: The edits that were made.

    Returns:
        The earlier one; None if there is none.

    Raises:
        ForgettingError: The name was used for something else.
    """
    earlier = filed.get(request.name)
    if earlier is None and any(entry.request == request.name for entry in entries):
        raise ForgettingError(f"an edit was made under the name {request.name!r} without a request")
    if earlier is not None and earlier.classes != request.classes:
        raise ForgettingError(f"{request.name!r} is the name of a request for classes {list(earlier.classes)}")
    return earlier


def check_not_answered(name: str, requests: Sequence[Request], entries: Sequence[Entry]) -> None:
    """Check that an edit can be made under a name.

    Args:
        name: The name.
        requests: Those filed.
        entries: The edits that were made.

    Raises:
        ValueError: A request of this name was carried out or refused.
    """
    for entry in entries:
        if entry.request == name:
            raise ValueError(f"`request` {name!r} was carried out already: it made version {entry.number}")
    if any(request.name == name and request.state != "waiting" for request in requests):
        raise ValueError(f"`request` {name!r} was refused already: give it another name")


def note_edit(filed: MutableMapping[str, Request], entry: Entry) -> None:
    """Note in place by which edit a request was carried out, if one of its name was filed and waits."""
    done = {"state": "done", "version": entry.number, "claims": entry.claims, "outcome": entry.outcome}
    _note(filed, entry.request, done)


def note_refusal(filed: MutableMapping[str, Request], name: str, reason: str) -> None:
    """Note in place why a request was refused, if one of this name was filed and waits."""
    _note(filed, name, {"state": "refused", "reason": reason})


def _note(filed: MutableMapping[str, Request], name: str, answer: Mapping[str, Any]) -> None:
    request = filed.get(name)
    if request is not None and request.state == "waiting":
        filed[name] = replace(request, **answer)
