"""The model of one process: it predicts in one version, and goes on to others."""

from __future__ import annotations

import logging
import threading
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
from fastforget.serving.engines.engine import Predictor
from fastforget.serving.gate import Gate
from fastforget.serving.history.entries import Entry, Version, edit_path, timestamp, versions
from fastforget.serving.history.history import History
from fastforget.serving.weights import Weights

__all__ = ["Prediction", "Replica"]


_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Serving:
    """What answers predictions, and in which version: one object, so that nobody sees one without the other.

    Attributes:
        run: The model, its engine, what this ran at one time, or a draft that stands in for the model.
        versions: All of them; what runs is the last one.
        unwritten: The receipts that the model's own storage lacks.
        write: What writes them.
    """

    run: Predictor
    versions: tuple[Version, ...]
    unwritten: tuple[Receipt, ...] = ()
    write: Callable[[], None] | None = None


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

    Then new predictions are led to the draft. When those that began before have left, the model becomes what the draft
    is, and predictions are led to the model again. So none waits for another. A prediction that hangs leaves the model
    `unwritten`; the draft goes on answering.

    An engine that pins its predictors, see `PinningEngine`, runs none of the model's own storage: this is written at
    once, and new predictions are led to what the engine made of it. None waits either.

    Where a draft cannot stand in, see `can_stand_in`, or another engine predicts, the model changes at once, while
    predictions are kept out and none is inside.

    Args:
        weights: Of the model, in any version from which the current one can be reached.
        history: Where versions come from.
        patience: For how many seconds an edit waits for predictions to leave.
        forgotten: Classes that the model, as it is given, has forgotten.

    Attributes:
        gate: Leads predictions to what answers them.

    Raises:
        OSError: The history cannot be read.
        ValueError: The model is no version of the history, or cannot be brought to the current one.
    """

    def __init__(self, weights: Weights, history: History, patience: float, forgotten: Sequence[int] = ()) -> None:
        self._weights, self._history, self._patience = weights, history, patience
        self._storage = threading.Lock()  # no look at the model's own storage while it is written beside predictions
        given, entries = weights.fingerprint(), history.entries()
        first = Version(0, entries[0].before if entries else given, entries[0].created if entries else timestamp())
        here = self._find(given, versions([first], entries))
        first = replace(first, classes=tuple(cls for cls in forgotten if cls not in here.classes))
        known = versions([first], entries)
        self.gate: Gate[Serving] = Gate(Serving(weights.run, (first,)))
        self._advance(known[here.number], known)

    @property
    def version(self) -> Version:
        """The current one."""
        return self.versions[-1]

    @property
    def versions(self) -> tuple[Version, ...]:
        """All of them, the first one first."""
        return self.gate.now.versions

    @property
    def unwritten(self) -> bool:
        """Whether the model's own storage lacks the last edit, since predictions that began before are inside."""
        return self.gate.now.write is not None

    @property
    def draft(self) -> nn.Module:
        """The copy on which the next version is made; equal to what predicts at other times."""
        return self._weights.draft

    def predict(self, *args: Any, **kwargs: Any) -> Prediction:
        """Run the current version, without gradients."""
        with self.gate.shared() as serving, torch.no_grad():
            return Prediction(serving.run(*args, **kwargs), serving.versions[-1].number)

    def state(self) -> tuple[Version, bool]:
        """Return the current version, and whether the weights are its own, which takes a pass over them."""
        with self._storage, self.gate.shared() as serving:  # no edit comes in between
            return serving.versions[-1], self._is_intact(serving)

    def catch_up(self) -> None:
        """Come to the last version of the history, which others may have made; nobody may use the draft meanwhile.

        What is unwritten is written, if nothing is in the way by now.

        Raises:
            ForgettingError: Somebody changed the weights.
            TimeoutError: Predictions did not end in time.
            ValueError: Old values with which an edit must be undone are no longer kept.
            OSError: The history cannot be read.
        """
        entries = self._history.entries()
        known = versions(self.versions, entries)
        self._write(0)
        self._weights.take_back(self.gate.now.run, self._is_used)
        if not self._is_intact(self.gate.now):
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
        earlier = self.versions[number]
        if current.edits[: len(earlier.edits)] != earlier.edits:
            raise ValueError(f"version {number} has edits that version {current.number} has not: apply their receipts")
        return earlier

    def reset_draft(self) -> None:
        """Make the draft equal to what predicts again, whatever an edit that failed did to it."""
        self._weights.reset(self.gate.now.run)

    def prepare(self, entry: Entry, touched: Sequence[Receipt]) -> Callable[[], None]:
        """Prepare to make the draft the next version.

        Args:
            entry: The edit that makes it, the next one of the history.
            touched: The receipts between the current version and the draft.

        Returns:
            What does it. Where predictions are kept out meanwhile, it raises TimeoutError if they do not end in time.

        Raises:
            ValueError: The draft cannot predict.
        """
        known = versions(self.versions, [*self._history.entries(), entry])
        return self._change(known, touched)

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
        self._change(known, touched)()

    def _take_over(self, known: Sequence[Version]) -> None:
        """Name the version of the weights if an interrupt came between these and the version's number."""
        found = self._weights.fingerprint()
        made = [version.number for version in known[self.version.number + 1 :] if version.fingerprint == found]
        if not made:
            raise ForgettingError(f"somebody else changed the weights since version {self.version.number} was made")
        self._wait_to_reuse()
        self._weights.restage()
        self.gate.lead(Serving(self._weights.run, tuple(known[: made[0] + 1])))
        self.reset_draft()

    def _change(self, known: list[Version], touched: Sequence[Receipt]) -> Callable[[], None]:
        """Prepare to make the draft the last of the known versions."""
        unwritten = (*self.gate.now.unwritten, *touched)
        self._wait_to_reuse()
        write = self._weights.stage(unwritten)
        if self._weights.lends_draft:
            return partial(self._lead_to, Serving(self._weights.draft, tuple(known), unwritten, write))
        return partial(self._pin if self._weights.pins else self._switch, known, write)

    def _wait_to_reuse(self) -> None:
        """Wait until the engine can put weights where those before the current ones are, if it does that."""
        if not self._weights.reuses:
            return
        current = self.gate.now.run
        if not self.gate.is_left(lambda place: place.run != current, self._patience):
            raise TimeoutError(f"predictions of an earlier version were not over in {self._patience:g} s")
        self._weights.take_back(current, self._is_used)

    def _pin(self, known: list[Version], commit: Callable[[], None]) -> None:
        """Change the model, which does not predict itself, then weights and version for new predictions."""
        former = self.gate.now
        with self._storage:
            commit()
            lent = self._weights.lend(former.run)
            self.gate.lead(Serving(self._weights.run, tuple(known)))
        if lent and self.gate.is_left(lambda place: place.run is former.run, self._patience):
            self._weights.take_back(self._weights.run, self._is_used)

    def _lead_to(self, draft: Serving) -> None:
        """Change weights and version for new predictions, and the model when those inside have left."""
        self.gate.lead(draft)
        self._write(self._patience)

    def _switch(self, known: list[Version], commit: Callable[[], None]) -> None:
        """Change weights and version, with predictions kept out."""
        with self.gate.alone(self._patience):
            started = time.perf_counter()
            commit()
            seconds = time.perf_counter() - started
            ahead = [replace(version, seconds=seconds) for version in known[len(self.versions) :]]
            self.gate.lead(Serving(self._weights.run, (*self.versions, *ahead)))

    def _write(self, patience: float) -> None:
        """Write what is unwritten when no prediction is inside the model, and lead predictions to it again."""
        serving, home = self.gate.now, self._weights.run
        if serving.write is None or not self.gate.is_left(lambda place: place.run is home, patience):
            return
        try:
            serving.write()
        except Exception:  # noqa: BLE001 (no memory, or the model has kept something since: the draft goes on)
            _LOG.exception("the edit is made, but cannot be written into the model's own storage")
            return
        self.gate.lead(Serving(home, serving.versions))

    def _is_used(self, predictor: Predictor) -> bool:
        """Whether predictions are, or come, inside what predicted before."""
        return self.gate.now.run is predictor or not self.gate.is_left(lambda place: place.run is predictor, 0)

    def _is_intact(self, serving: Serving) -> bool:
        return self._weights.fingerprint(serving.run) == serving.versions[-1].fingerprint
