"""One edit at a time: worked out on the draft, put on record, made."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from fastforget.auditing import AuditReport
from fastforget.classifier.fingerprint import fingerprint
from fastforget.classifier.fitting import DEVICE_ERRORS
from fastforget.classifier.modes import normal_tensors
from fastforget.edits.receipt import Receipt
from fastforget.errors import ForgettingError
from fastforget.serving.history.entries import Entry, Version, now, timestamp
from fastforget.serving.history.history import History, HistoryWriter
from fastforget.serving.history.requests import check_not_answered
from fastforget.serving.history.undo_policy import kept_until
from fastforget.serving.replica import Replica

__all__ = ["Editor", "OpenEdit", "check_classes", "check_texts", "plain_audit"]

# Want of space, time or memory, or a device in trouble: no reason to refuse a request for good.
_PASSING = (OSError, MemoryError, *DEVICE_ERRORS)


class OpenEdit:
    """An edit that is being worked out on the draft, see `Editor.edit`.

    Args:
        request: Name of the request.
        asked_by: Who asks for it.
        replica: What is edited.
        history: Where edits are recorded.
        writer: Records this one.

    Attributes:
        before: The version that is edited.
    """

    def __init__(self, request: str, asked_by: str, replica: Replica, history: History, writer: HistoryWriter) -> None:
        self.before: Version = replica.version
        self._request, self._asked_by = request, asked_by
        self._replica, self._history, self._writer = replica, history, writer

    @property
    def draft(self) -> nn.Module:
        """The copy of the model to edit."""
        return self._replica.draft

    def is_recorded(self) -> bool:
        """Whether it is on record, and will be made in spite of an error."""
        return self.before.number < len(self._history.entries())

    def make(self, action: str, receipt: Receipt, undo: str, audit: Mapping[str, Any] | None = None) -> Version:
        """Record and make what a receipt says was done to the draft.

        Args:
            action: "forget" or "apply".
            receipt: What was done.
            undo: How long the old values are kept.
            audit: What was measured on the draft.

        Returns:
            The new version.

        Raises:
            ForgettingError: The draft is not what the receipt says.
            TimeoutError: Predictions did not end in time.
            ValueError: The draft cannot predict.
            OSError: The history cannot be written.
        """
        after = fingerprint(self.draft)
        if (self.before.fingerprint, after) != (receipt.before, receipt.after):
            raise ForgettingError("`audit` must leave the weights as they are; the model is unchanged")
        time = now()
        until = kept_until(undo, time)
        kept = receipt.without_undo() if until == time.isoformat() else receipt
        said = {"classes": receipt.classes, "claims": receipt.claims, "outcome": receipt.outcome}
        entry = self._entry(action, after, undo=until, audit=audit or {}, **said)
        return self._enter(entry, kept, [kept])

    def make_way_back(self, target: Version) -> Version:
        """Go back to an earlier version on the draft, record it, and make it; nothing, if it has the same edits.

        Args:
            target: A version whose edits are all among those of the current one.

        Returns:
            The new version, or the current one.

        Raises:
            TimeoutError: Predictions did not end in time.
            ValueError: Old values are not kept, or are wrong.
            OSError: The history cannot be read or written.
        """
        if target.edits == self.before.edits:
            return self.before
        touched = self._replica.move_draft(self.before, target)
        return self._enter(self._entry("revert", target.fingerprint, to=target.number), None, touched)

    def _entry(self, action: str, after: str, **fields: Any) -> Entry:
        return Entry(
            self.before.number + 1,
            action,
            self.before.fingerprint,
            after,
            timestamp(),
            request=self._request,
            asked_by=self._asked_by,
            **fields,
        )

    def _enter(self, entry: Entry, receipt: Receipt | None, touched: Sequence[Receipt]) -> Version:
        self._writer.enter(entry, receipt, self._replica.prepare(entry, touched))
        return self._replica.version


class Editor:
    """Lets one edit at a time be made, in this process and, by the history's lock, in all that share it.

    Args:
        replica: What is edited.
        history: Where edits are recorded.
        patience: For how many seconds an edit waits for another.
    """

    def __init__(self, replica: Replica, history: History, patience: float) -> None:
        self._replica, self._history, self._patience = replica, history, patience
        self._lock = threading.Lock()

    @property
    def busy(self) -> bool:
        """Whether an edit is being made."""
        return self._lock.locked()

    def catch_up(self) -> None:
        """Come to the last version of the history, see `Replica.catch_up`."""
        with self._lock, normal_tensors():
            self._replica.catch_up()

    def expire(self) -> None:
        """Remove old values whose time is over."""
        with self._lock:
            self._history.expire(now())

    @contextmanager
    def edit(
        self, request: str | None, asked_by: str, classes: object, current: int | None = None
    ) -> Iterator[OpenEdit]:
        """Let an edit of the last version be made; if it fails, the draft is reset and the refusal put on record.

        Args:
            request: Its name, unlike any before; made up if there is none.
            asked_by: Who asks for it.
            classes: What is to be forgotten, for the record of a refusal.
            current: The version that must be the last one, if any.

        Yields:
            The edit.

        Raises:
            TypeError: A text is none.
            ForgettingError: Another edit is, or was, being made, or somebody changed the weights.
            TimeoutError: This thread is inside a prediction, or another process did not end its edit in time.
            ValueError: A request of this name was answered already.
            OSError: The history cannot be written.
        """
        check_texts(request, asked_by)
        self._replica.gate.check_outside()
        if not self._lock.acquire(timeout=self._patience):
            raise ForgettingError("another edit is being made; the model is unchanged")
        try:
            # The draft of a caller's inference mode could not be edited by others.
            with normal_tensors(), self._history.writing(self._patience) as writer:
                self._replica.catch_up()
                if current not in (None, self._replica.version.number):
                    raise ForgettingError(f"version {self._replica.version.number} was made meanwhile")
                name = request or uuid.uuid4().hex
                check_not_answered(name, self._history.requests(), self._history.entries())
                edit = OpenEdit(name, asked_by, self._replica, self._history, writer)
                try:
                    yield edit
                except BaseException as error:
                    self._replica.reset_draft()
                    final = isinstance(error, Exception) and not isinstance(error, _PASSING)
                    if final and not edit.is_recorded():
                        writer.refuse(name, asked_by, _listed(classes), _reason(error))
                    raise
        finally:
            self._lock.release()


def check_texts(request: object, asked_by: object) -> None:
    """Raise TypeError unless the name of a request, or None, and who asks for it are texts."""
    for name, given in (("request", request), ("asked_by", asked_by)):
        if not isinstance(given, str) and not (name == "request" and given is None):
            raise TypeError(f"`{name}` must be a text, got {type(given).__name__}")


def check_classes(receipt: Receipt, count: int | None) -> None:
    """Raise ValueError if a receipt names a class twice, or one beyond their number, where that is known."""
    if len(set(receipt.classes)) < len(receipt.classes):
        raise ValueError(f"`receipt` must name each of its classes once, got {list(receipt.classes)}")
    if count is not None and any(cls >= count for cls in receipt.classes):
        raise ValueError(f"`receipt` must be of classes in [0, {count}), got {list(receipt.classes)}")


def plain_audit(measured: Mapping[str, Any] | AuditReport) -> Mapping[str, Any]:
    """Return what an audit measured as a record can hold it."""
    if not isinstance(measured, AuditReport):
        return dict(measured)
    return {name: measured.describe()[name] for name in ("metrics", "findings", "cannot_judge", "average_gap")}


def _reason(error: BaseException) -> str:
    expected = isinstance(error, (ForgettingError, ValueError, TypeError))
    return str(error) if expected else f"{type(error).__name__}: {error}"


def _listed(classes: object) -> list[int]:
    """Return classes as a record can hold them, whatever was given."""
    given = [classes] if isinstance(classes, int) else list(classes) if isinstance(classes, Sequence) else []
    return [int(cls) for cls in given if isinstance(cls, int)]
