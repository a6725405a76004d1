"""The model of one process: it predicts in one version, and goes on to others."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from fastforget.classifier.fingerprint import fingerprint
from fastforget.edits.receipt import Receipt
from fastforget.errors import ForgettingError
from fastforget.serving.gate import Gate
from fastforget.serving.history.entries import Entry, Version, edit_path, timestamp, versions
from fastforget.serving.history.history import History
from fastforget.serving.weights import Weights

__all__ = ["Prediction", "Replica"]


@dataclass(frozen=True)
class Prediction:
    """What the model said, and which version of it.

    Attributes:
        outputs: What its forward returned.
        version: Number of the version whose weights gave all of it.
    """

    outputs: Any
    version: int


class Replica:
    """Predicts in one version, while the next one is made on a copy of the model: the draft.

    Then the model becomes what the draft is, at once, while no prediction is inside.

    Args:
        weights: Of the model, in any version from which the current one can be reached.
        history: Where versions come from.
        patience: For how many seconds predictions may keep a change of version waiting.
        forgotten: Classes that the model, as it is given, has forgotten.

    Attributes:
        gate: Lets predictions in, or the change of version.

    Raises:
        OSError: The history cannot be read.
        ValueError: The model is no version of the history, or cannot be brought to the current one.
    """

    def __init__(self, weights: Weights, history: History, patience: float, forgotten: Sequence[int] = ()) -> None:
        self._weights, self._history, self._patience = weights, history, patience
        self.gate = Gate()
        given, entries = weights.fingerprint(), history.entries()
        first = Version(0, entries[0].before if entries else given, entries[0].created if entries else timestamp())
        here = self._find(given, versions([first], entries))
        first = replace(first, classes=tuple(cls for cls in forgotten if cls not in here.classes))
        known = versions([first], entries)
        self._versions = [first]
        self._advance(known[here.number], known)

    @property
    def version(self) -> Version:
        """The current one."""
        return self._versions[-1]

    @property
    def versions(self) -> tuple[Version, ...]:
        """All of them, the first one first."""
        return tuple(self._versions)

    @property
    def draft(self) -> nn.Module:
        """The copy on which the next version is made; equal to the model at other times."""
        return self._weights.draft

    def predict(self, *args: Any, **kwargs: Any) -> Prediction:
        """Run the current version, without gradients."""
        with self.gate.shared(), torch.no_grad():
            return Prediction(self._weights.run(*args, **kwargs), self._versions[-1].number)

    def state(self) -> tuple[Version, bool]:
        """Return the current version, and whether the weights are its own, which takes a pass over them."""
        with self.gate.shared():  # no edit comes in between
            return self.version, self._intact()

    def catch_up(self) -> None:
        """Come to the last version of the history, which others may have made; nobody may use the draft meanwhile.

        Raises:
            ForgettingError: Somebody changed the weights.
            TimeoutError: Predictions did not end in time.
            ValueError: Old values with which an edit must be undone are no longer kept.
            OSError: The history cannot be read.
        """
        entries = self._history.entries()
        known = versions(self._versions, entries)
        if not self._intact():
            self._take_over(known)
        if len(entries) > self.version.number:
            try:
                self._advance(self.version, known)
            except BaseException:
                self.reset_draft()
                raise

    def move_draft(self, start: Version, end: Version) -> list[Receipt]:
        """Bring the draft from one version to another.

        Args:
            start: What it is.
            end: What it is to be.

        Returns:
            The receipts that were undone or applied.

        Raises:
            ValueError: Old values with which an edit must be undone are not kept, or a receipt is of another model.
            OSError: A receipt cannot be read.
        """
        undo, make = edit_path(start.edits, end.edits)
        undone = [self._history.receipt(edit) for edit in undo]
        for edit, receipt in zip(undo, undone, strict=True):
            if not receipt.reversible:
                raise ValueError(f"edit {edit} cannot be gone back on: its old values are not kept")
        for receipt in undone:
            receipt.revert(self.draft)
        made = [self._history.receipt(edit) for edit in make]
        for receipt in made:
            receipt.apply(self.draft)
        return [*undone, *made]

    def earlier_version(self, number: int) -> Version:
        """Return a version that can be come to by undoing edits of the current one.

        Args:
            number: Of the version.

        Returns:
            The version.

        Raises:
            ValueError: There is no such version, or the current one does not begin with its edits.
        """
        current = self.version
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= current.number:
            raise ValueError(f"`number` must be that of a version, 0 to {current.number}, got {number!r}")
        earlier = self._versions[number]
        if current.edits[: len(earlier.edits)] != earlier.edits:
            raise ValueError(f"version {number} has edits that version {current.number} has not: apply their receipts")
        return earlier

    def reset_draft(self) -> None:
        """Make the draft equal to the model again, whatever an edit that failed did to it."""
        self._weights.reset()

    def prepare(self, entry: Entry, touched: Sequence[Receipt]) -> Callable[[], None]:
        """Prepare to make the draft the next version.

        Args:
            entry: The edit that makes it, the next one of the history.
            touched: The receipts between the current version and the draft.

        Returns:
            What does it; it keeps predictions out meanwhile, and raises TimeoutError if they do not end in time.

        Raises:
            ValueError: The draft cannot predict.
        """
        known = versions(self._versions, [*self._history.entries(), entry])
        return partial(self._switch, known, self._weights.stage(touched))

    @staticmethod
    def _find(given: str, known: Sequence[Version]) -> Version:
        """Return the version that the model is given in."""
        here = [version for version in known if version.fingerprint == given]
        if not here:
            raise ValueError(
                f"`model` must be a version of the archive: its fingerprint must be {known[-1].fingerprint} or that of "
                f"one before, got {given}"
            )
        return here[-1]

    def _advance(self, start: Version, known: list[Version]) -> None:
        """Bring model and draft from one version to the last of the known ones."""
        touched = self.move_draft(start, known[-1])
        if fingerprint(self.draft) != known[-1].fingerprint:
            raise ValueError(f"the edits of the archive must lead to {known[-1].fingerprint}, they do not")
        self._switch(known, self._weights.stage(touched))

    def _take_over(self, known: Sequence[Version]) -> None:
        """Name the version of the weights if an interrupt came between these and the version's number."""
        found = self._weights.fingerprint()
        made = [version.number for version in known[self.version.number + 1 :] if version.fingerprint == found]
        if not made:
            raise ForgettingError(f"somebody else changed the weights since version {self.version.number} was made")
        self._versions = list(known[: made[0] + 1])
        self.reset_draft()

    def _switch(self, known: list[Version], commit: Callable[[], None]) -> None:
        """Change weights and version, with predictions kept out."""
        with self.gate.alone(self._patience):
            started = time.perf_counter()
            commit()
            seconds = time.perf_counter() - started
            ahead = [replace(version, seconds=seconds) for version in known[len(self._versions) :]]
            self._versions = [*self._versions, *ahead]

    def _intact(self) -> bool:
        return self._weights.fingerprint() == self.version.fingerprint
