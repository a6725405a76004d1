"""A model that predicts in many threads while classes are forgotten from it."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any

import torch
from torch import nn

from fastforget.audit import AuditReport
from fastforget.codes import MnemonicCodes
from fastforget.diagonal import FisherDiagonal, kept_unless
from fastforget.errors import ForgettingError
from fastforget.fingerprint import fingerprint
from fastforget.forgetting.code_batch import DEVICE_ERRORS, classes_of
from fastforget.one_shot import one_shot
from fastforget.receipt import Receipt
from fastforget.serving.archive import Archive
from fastforget.serving.engines import Engine
from fastforget.serving.gate import Gate
from fastforget.serving.history import Entry, History, Request, Version, now, versions
from fastforget.serving.memory import Memory
from fastforget.serving.undo import kept_until
from fastforget.serving.weights import Weights

__all__ = ["LiveModel", "Prediction"]

_LOG = logging.getLogger(__name__)
_LONGEST = 10**6  # seconds; what threads can wait for is limited
_RARELY = 10  # times the patience, after a prediction that hung
# Want of space, time or memory, or a device in trouble: no reason to refuse a request for good.
_PASSING = (OSError, MemoryError, *DEVICE_ERRORS)


@dataclass(frozen=True)
class Prediction:
    """What the model said, and which version of it.

    Attributes:
        outputs: What its forward returned.
        version: Number of the version whose weights gave all of it.
    """

    outputs: Any
    version: int


class LiveModel:
    """Predicts from many threads, while edits replace weights under it.

    An edit is worked out on a copy of the model, with predictions going on. Then new predictions wait for those inside
    to end, the changed weights are copied into the model's own storage, and all go on: no prediction sees a part of an
    edit, each says which version it saw. The memory is that of two models. That is all for what sees weights where they
    lie: eager modules and ``torch.compile``. What has its own copy of them, or CUDA graphs, is run by an engine, see
    `fastforget.serving.engines`.

    With an ``archive`` every edit is on the disk before it is made. Several processes may share one, each with its own
    LiveModel, and edit in turn: the others come to it by `catch_up`, or by themselves after `follow`; one that starts
    comes to the current version. Without, edits live as long as the process.

    Args:
        model: In eval mode; nobody else may change its weights from now on. With an archive, in any version from which
            the current one can be reached.
        codes: Its mnemonic codes; only `forget` needs them.
        engine: What predicts, if not the model itself.
        archive: A folder that keeps what is done.
        undo: How long an edit can be gone back on: ``"keep"``, ``"never"``, or ``"expire:30d"`` and the like.
        audit: Measures every edited copy that `forget` makes, before anybody sees it; what it returns is recorded, what
            it raises stops the edit.
        patience: For how many seconds an edit keeps new predictions waiting for those inside to end, before it gives
            up, and for how many it waits for that of another process.

    Raises:
        TypeError: The model is no module that runs in Python.
        ValueError: A module is in train mode, weights were made under ``torch.inference_mode`` or are constants of a
            compiled graph, the engine runs other weights, the archive is of another model, or a setting is out of
            range.
        OSError: The archive cannot be read.

    Example:
        >>> model = nn.Linear(4, 3).eval()
        >>> live = LiveModel(model)
        >>> live.predict(torch.zeros(1, 4)).version
        0
    """

    def __init__(
        self,
        model: nn.Module,
        codes: MnemonicCodes | None = None,
        *,
        engine: Engine | None = None,
        archive: Archive | str | PathLike[str] | None = None,
        undo: str = "keep",
        audit: Callable[[nn.Module], Mapping[str, Any] | AuditReport] | None = None,
        patience: float = 5.0,
    ) -> None:
        _check_seconds("patience", patience)
        kept_until(undo, now())
        self._weights, self._codes = Weights(model, engine), codes
        self._run: Callable[..., Any] = model if engine is None else engine
        self._undo, self._audit, self._patience = undo, audit, float(patience)
        self._gate, self._editing = Gate(), threading.Lock()
        self._history: History = Memory() if archive is None else _opened(archive)
        self._following: tuple[threading.Thread, threading.Event] | None = None
        self._trouble: str | None = None
        self._start()

    @property
    def version(self) -> Version:
        """The current one."""
        return self._versions[-1]

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self._weights.dtype

    @property
    def device(self) -> torch.device:
        """Of the weights; the first one, where there are several."""
        return self._weights.device

    @property
    def versions(self) -> tuple[Version, ...]:
        """All of them, the first one first."""
        return tuple(self._versions)

    def predict(self, *args: Any, **kwargs: Any) -> Prediction:
        """Run the model, without gradients.

        Args:
            args: As its forward takes them.
            kwargs: Likewise.

        Returns:
            What it says, with the version.
        """
        with self._gate.shared(), torch.no_grad():
            return Prediction(self._run(*args, **kwargs), self._versions[-1].number)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model, without gradients; return what it says."""
        return self.predict(*args, **kwargs).outputs

    def forget(
        self,
        cls: int | Sequence[int],
        *,
        request: str | None = None,
        asked_by: str = "",
        undo: str | None = None,
        **settings: Any,
    ) -> Version:
        """Forget classes.

        Args:
            cls: One class or several.
            request: Name of the request, unlike that of any edit before; made up if there is none.
            asked_by: Who asks for it, for the record: any text.
            undo: As for the whole, for this edit.
            settings: As for `fastforget.one_shot`; the classes of earlier versions are told it.

        Returns:
            The version without them.

        Raises:
            ForgettingError: Another edit is being made, or no step does what is asked for.
            TimeoutError: Predictions, or an edit by another process, did not end in time.
            ValueError: There are no codes, or the request was carried out already; see also `fastforget.one_shot`.
            OSError: The archive cannot be written, for instance for want of space.
        """
        if self._codes is None:
            raise ValueError("there must be `codes` to forget by: give them to LiveModel, or `apply` a receipt")
        if undo is not None:
            kept_until(undo, now())
        kept = settings.get("fisher") if settings.get("update") is True else None
        kept = kept if isinstance(kept, FisherDiagonal) else None  # one_shot complains
        with self._edit(request, asked_by, cls) as draft, kept_unless(kept, lambda: self._recorded(draft)):
            forgotten = settings.pop("forgotten", self.version.classes)
            receipt = one_shot(self._weights.draft, self._codes, cls, forgotten=forgotten, **settings)
            found = self._audit(self._weights.draft) if self._audit else {}
            return self._enter(replace(draft, action="forget", audit=_plain(found)), receipt, undo)

    def apply(
        self, receipt: Receipt, *, request: str | None = None, asked_by: str = "", undo: str | None = None
    ) -> Version:
        """Make an edit that was made on a copy of the model, for instance by another replica.

        Args:
            receipt: Of a model equal to the current version, bit for bit.
            request: As for `forget`; likewise the others.
            asked_by: Who asks for it.
            undo: How long it can be gone back on.

        Returns:
            The version that it makes.

        Raises:
            ForgettingError: Another edit is being made.
            TimeoutError: Predictions, or an edit by another process, did not end in time.
            ValueError: The receipt is of another model, or the request was carried out already.
            OSError: The archive cannot be written.
        """
        if undo is not None:
            kept_until(undo, now())
        with self._edit(request, asked_by, receipt.classes) as draft:
            receipt.apply(self._weights.draft)
            self._check_classes(receipt)
            return self._enter(replace(draft, action="apply"), receipt, undo)

    def revert(self, number: int, *, request: str | None = None, asked_by: str = "") -> Version:
        """Go back to an earlier version.

        Args:
            number: Of a version whose edits are all among those of the current one.
            request: As for `forget`.
            asked_by: Who asks for it.

        Returns:
            A new version with the same weights.

        Raises:
            ForgettingError: Another edit is being made.
            TimeoutError: Predictions, or an edit by another process, did not end in time.
            ValueError: There is no such version, its edits are not a beginning of the current ones, the old values of
                one since are not kept, or the request was carried out already.
            OSError: The archive cannot be written.
        """
        with self._edit(request, asked_by, ()) as draft:
            current = self.version
            if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= current.number:
                raise ValueError(f"`number` must be that of a version, 0 to {current.number}, got {number!r}")
            target = self._versions[number]
            if current.edits[: len(target.edits)] != target.edits:
                raise ValueError(
                    f"version {number} has edits that version {current.number} has not: apply their receipts"
                )
            touched = self._move(current.edits, target.edits)
            if fingerprint(self._weights.draft) != target.fingerprint:
                raise ValueError(f"version {number} cannot be gone back to: a receipt since holds wrong old values")
            return self._enter(replace(draft, action="revert", to=number), None, None, touched)

    def ask(self, cls: int | Sequence[int], *, request: str | None = None, asked_by: str = "") -> Request:
        """File a request to forget classes, to be carried out by the thread of `follow`, here or in another process.

        Args:
            cls: One class or several.
            request: As for `forget`. Asked for again under the same name, nothing more is done.
            asked_by: Who asks for it.

        Returns:
            The request, waiting; or what became of it.

        Raises:
            TypeError: An argument has the wrong type.
            ForgettingError: The name was used for something else.
            TimeoutError: Another process did not end a line of the log in time.
            ValueError: There are no codes, or no such class.
            OSError: The archive cannot be written.
        """
        _check_texts(request, asked_by)
        if self._codes is None:
            raise ValueError("there must be `codes` to forget by: give them to LiveModel")
        classes = classes_of("cls", cls, len(self._codes))
        if not classes:
            raise ValueError("`cls` must name at least one class, got none")
        return self._history.ask(Request(request or uuid.uuid4().hex, classes, asked_by, _time()))

    def requests(self) -> tuple[Request, ...]:
        """Return the requests that were filed, the first one first, with what became of them."""
        return tuple(self._history.requests())

    def receipts(self, number: int) -> tuple[Receipt, ...]:
        """Return the receipts of a version's edits, in order, for models equal to version 0.

        Args:
            number: Of the version.

        Returns:
            The receipts, with old values where they are kept.

        Raises:
            IndexError: There is no such version.
            OSError: A file of the archive is missing.
            ValueError: It was changed.
        """
        return tuple(self._history.receipt(edit) for edit in self._versions[number].edits)

    def catch_up(self) -> Version:
        """Come to the version that the archive says, which others may have made.

        Returns:
            The current version.

        Raises:
            TimeoutError: Predictions did not end in time.
            ValueError: The old values that an edit must be gone back with are no longer kept: start anew.
            OSError: The archive cannot be read.
        """
        with self._editing:
            self._catch_up()
        return self.version

    def follow(self, every: float = 0.5) -> None:
        """Have a thread catch up, carry out what was asked for, and remove old values that are due, until `close`.

        Trouble it has is told by `health`; it goes on trying.

        Args:
            every: Seconds between two looks.

        Raises:
            ValueError: The time is not positive, or the thread runs already.
        """
        _check_seconds("every", every)
        if self._following is not None:
            raise ValueError("`follow` must be called once, its thread runs already")
        stop = threading.Event()
        thread = threading.Thread(target=self._follow, args=(every, stop), name="fastforget-follow", daemon=True)
        self._following = thread, stop
        thread.start()

    def close(self) -> None:
        """End the thread of `follow`; predictions go on."""
        if self._following is not None:
            thread, stop = self._following
            stop.set()
            thread.join()
            self._following = None

    def health(self) -> dict[str, Any]:
        """Say how it is, for a health check.

        Returns:
            ``version``, ``fingerprint``, forgotten ``classes``, predictions ``inside``, whether an edit is ``editing``,
            whether the weights are ``intact``: those of the version, which takes a pass over them, and what ``trouble``
            there was when it followed its archive last.
        """
        with self._gate.shared():  # no edit comes in between
            current, intact = self.version, self._weights.fingerprint() == self.version.fingerprint
        return {
            "version": current.number,
            "fingerprint": current.fingerprint,
            "classes": list(current.classes),
            "inside": self._gate.inside,
            "editing": self._editing.locked(),
            "intact": intact,
            "trouble": self._trouble,
        }

    def _start(self) -> None:
        """Bring the model, in whichever version it is, to the current one."""
        found, entries = self._weights.fingerprint(), self._history.entries()
        first = Version(0, entries[0].before if entries else found, entries[0].created if entries else _time())
        self._versions = [first]
        known = versions(first, entries)
        here = [version for version in known if version.fingerprint == found]
        if not here:
            raise ValueError(
                f"`model` must be a version of the archive: its fingerprint must be {known[-1].fingerprint} or that of "
                f"one before, got {found}"
            )
        self._switch(known, self._move(here[-1].edits, known[-1].edits))

    def _follow(self, every: float, stop: threading.Event) -> None:
        wait = every
        while not stop.wait(wait):
            error = self._keep_up(stop)
            self._trouble = None if error is None else f"{type(error).__name__}: {error}"
            if self._trouble:
                _LOG.warning("cannot follow the archive: %s", self._trouble)
            # a prediction that hangs must not keep the others out again and again
            hangs = isinstance(error, TimeoutError)
            longer = max(every, _RARELY * self._patience, 2 * wait * (wait > every))
            wait = min(longer, _LONGEST) if hangs else every

    def _keep_up(self, stop: threading.Event) -> Exception | None:
        """Catch up, remove what is due, carry out what was asked for, and return what trouble there was."""
        try:
            if len(self._history.entries()) > self.version.number:
                self.catch_up()
            with self._editing:
                self._history.expire(now())
            waiting = [request for request in self._history.requests() if request.state == "waiting"]
        except Exception as error:  # noqa: BLE001 (whatever it is, predictions go on and `health` tells it)
            return error
        for request in waiting:
            if stop.is_set():
                break
            try:
                self.forget(request.classes, request=request.name, asked_by=request.asked_by)
            except (ForgettingError, ValueError):  # another process came first, or the refusal is on record
                continue
            except Exception as error:  # noqa: BLE001 (likewise)
                return error
        return None

    @contextmanager
    def _edit(self, request: str | None, asked_by: str, cls: int | Sequence[int]) -> Iterator[Entry]:
        """Yield what the edit is called; after an error the copy is what the model is."""
        _check_texts(request, asked_by)
        if self._gate.mine:
            raise TimeoutError("an edit cannot be made from inside a prediction")
        if not self._editing.acquire(timeout=self._patience):
            raise ForgettingError("another edit is being made; the model is unchanged")
        try:
            with self._history.writing(self._patience):
                self._catch_up()
                draft = self._draft(request or uuid.uuid4().hex, asked_by)
                try:
                    yield draft
                except BaseException as error:
                    self._weights.reset()
                    if isinstance(error, Exception) and not isinstance(error, _PASSING):
                        self._refuse(draft, cls, error)
                    raise
        finally:
            self._editing.release()

    def _refuse(self, draft: Entry, cls: int | Sequence[int], error: Exception) -> None:
        """Put on record why an edit was not made; not of one that is recorded, and will be made."""
        if not self._recorded(draft):
            self._history.refuse(draft.request, draft.asked_by, _listed(cls), _reason(error))

    def _recorded(self, draft: Entry) -> bool:
        """Whether an edit will be made, in spite of an error, since it is on record."""
        return draft.number <= len(self._history.entries())

    def _draft(self, request: str, asked_by: str) -> Entry:
        for entry in self._history.entries():
            if entry.request == request:
                raise ValueError(f"`request` {request!r} was carried out already: it made version {entry.number}")
        if any(one.name == request and one.state != "waiting" for one in self._history.requests()):
            raise ValueError(f"`request` {request!r} was refused already: give it another name")
        version = self.version
        return Entry(version.number + 1, "", version.fingerprint, "", "", request=request, asked_by=asked_by)

    def _check_classes(self, receipt: Receipt) -> None:
        again = sorted(set(receipt.classes) & set(self.version.classes))
        if again or len(set(receipt.classes)) < len(receipt.classes):
            raise ValueError(
                f"`receipt` must be of classes that are not forgotten yet, each once, got {again or receipt}"
            )
        if self._codes is not None and any(cls >= len(self._codes) for cls in receipt.classes):
            raise ValueError(f"`receipt` must be of classes in [0, {len(self._codes)}), got {list(receipt.classes)}")

    def _enter(
        self, draft: Entry, receipt: Receipt | None, undo: str | None, touched: Sequence[Receipt] = ()
    ) -> Version:
        """Record an edit of the copy, and make it."""
        after = fingerprint(self._weights.draft)
        if receipt is not None:
            if (draft.before, after) != (receipt.before, receipt.after):
                raise ForgettingError("`audit` must leave the weights as they are; the model is unchanged")
            time = now()
            until = kept_until(self._undo if undo is None else undo, time)
            if until == time.isoformat():
                receipt = receipt.without_undo()
            draft = replace(draft, classes=receipt.classes, undo=until)
            touched = [receipt]
        entry = replace(draft, after=after, created=_time())
        known = versions(self._versions[0], [*self._history.entries(), entry])
        commit = self._weights.stage(touched)
        with self._history.entering(entry, receipt):
            self._make(known, commit)
        return self.version

    def _catch_up(self) -> None:
        """Make what the history has more."""
        if self._weights.fingerprint() != self.version.fingerprint:
            raise ForgettingError(f"somebody else changed the weights since version {self.version.number} was made")
        entries = self._history.entries()
        if len(entries) > self.version.number:
            known = versions(self._versions[0], entries)
            try:
                self._switch(known, self._move(self.version.edits, known[-1].edits))
            except BaseException:
                self._weights.reset()
                raise

    def _move(self, edits: tuple[int, ...], to: tuple[int, ...]) -> list[Receipt]:
        """Go from one list of edits to another on the copy; return the receipts that were undone or applied."""
        pairs = enumerate(zip(edits, to, strict=False))
        common = next((place for place, (one, other) in pairs if one != other), min(len(edits), len(to)))
        undone = [self._history.receipt(edit) for edit in reversed(edits[common:])]
        for edit, receipt in zip(reversed(edits[common:]), undone, strict=True):
            if not receipt.reversible:
                raise ValueError(f"edit {edit} cannot be gone back on: its old values are not kept")
        for receipt in undone:
            receipt.revert(self._weights.draft)
        applied = [self._history.receipt(edit) for edit in to[common:]]
        for receipt in applied:
            receipt.apply(self._weights.draft)
        return [*undone, *applied]

    def _switch(self, known: list[Version], touched: Sequence[Receipt]) -> None:
        """Make the model what the copy is, which is the last of the known versions."""
        if fingerprint(self._weights.draft) != known[-1].fingerprint:
            raise ValueError(f"the edits of the archive must lead to {known[-1].fingerprint}, they do not")
        self._make(known, self._weights.stage(touched))

    def _make(self, known: list[Version], commit: Callable[[], None]) -> None:
        """Keep predictions out while weights and version change."""
        with self._gate.alone(self._patience):
            started = time.perf_counter()
            commit()
            seconds = time.perf_counter() - started
            ahead = [replace(version, seconds=seconds) for version in known[len(self._versions) :]]
            self._versions = [*self._versions, *ahead]


def _opened(archive: Archive | str | PathLike[str]) -> Archive:
    return archive if isinstance(archive, Archive) else Archive(archive)


def _check_seconds(name: str, given: float) -> None:
    valid = isinstance(given, (int, float)) and not isinstance(given, bool)
    if not (valid and 0 < given <= _LONGEST):
        raise ValueError(f"`{name}` must be a positive number of seconds, at most {_LONGEST}, got {given!r}")


def _check_texts(request: str | None, asked_by: str) -> None:
    for name, given in (("request", request), ("asked_by", asked_by)):
        if not isinstance(given, str) and not (name == "request" and given is None):
            raise TypeError(f"`{name}` must be a text, got {type(given).__name__}")


def _reason(error: Exception) -> str:
    expected = isinstance(error, (ForgettingError, ValueError, TypeError))
    return str(error) if expected else f"{type(error).__name__}: {error}"


def _listed(cls: Any) -> list[int]:
    """Return classes as a record can hold them, whatever was given."""
    given = [cls] if isinstance(cls, int) else list(cls) if isinstance(cls, Sequence) else []
    return [int(one) for one in given if isinstance(one, int)]


def _plain(found: Mapping[str, Any] | AuditReport) -> Mapping[str, Any]:
    """Return an audit as a record can hold it."""
    if not isinstance(found, AuditReport):
        return dict(found)
    plain = found.describe()
    return {name: plain[name] for name in ("metrics", "findings", "average_gap")}


def _time() -> str:
    return now().isoformat(timespec="milliseconds")
