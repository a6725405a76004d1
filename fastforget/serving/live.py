"""A model that predicts in many threads while classes are forgotten from it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any

import torch
from torch import nn

from fastforget.auditing import AuditReport
from fastforget.class_forgetting.one_shot import one_shot
from fastforget.classifier.class_numbers import read_classes
from fastforget.classifier.modes import normal_tensors
from fastforget.codes.mnemonic_codes import MnemonicCodes
from fastforget.edits.receipt import Receipt
from fastforget.fisher.diagonal import FisherDiagonal
from fastforget.fisher.kept_sums import restored_on_error
from fastforget.serving.durations import check_seconds
from fastforget.serving.editing import Editor, check_classes, check_texts, plain_audit
from fastforget.serving.engines import Engine
from fastforget.serving.follower import Follower
from fastforget.serving.health import health_of, readiness_of
from fastforget.serving.history.archive import Archive
from fastforget.serving.history.entries import Version, now, timestamp
from fastforget.serving.history.history import History, open_history
from fastforget.serving.history.proofs import HeadProof, RecordProof
from fastforget.serving.history.requests import Request
from fastforget.serving.history.undo_policy import kept_until
from fastforget.serving.replica import Prediction, Replica
from fastforget.serving.weights import Weights

__all__ = ["LiveModel"]


class LiveModel:
    """Predicts from many threads, while edits replace weights under it.

    An edit is worked out on a copy of the model, while predictions go on. None sees a part of it, each says which
    version it saw, and a thread never sees an earlier one than before.

    An eager module's copy then answers new predictions, and none waits for another. When those that began before have
    ended, the model itself is written, and answers again. `forget`, `apply` and `revert` return after that, or after
    ``patience`` seconds: the edit is then made and visible, but the model that you hold has the old weights until a
    later edit, `catch_up`, or look of `follow` finds those predictions ended, see ``written`` in `health`.

    Whatever has its own copy of the weights is run by an engine, see `fastforget.serving.engines`: old and new weights
    predict side by side, and none waits either. The other models keep new predictions waiting until those inside have
    ended, and change in place: those with compiled parts or CUDA graphs, and those whose copy would not run on its own
    weights alone. If those inside do not end within ``patience``, the edit gives up: TimeoutError.

    With an ``archive`` every edit is on the disk before it is made. Several processes may share one, and edit in
    turn; the others come to an edit by `catch_up`, or by themselves after `follow`. One that starts comes to the
    current version. Without an archive edits live as long as the process. Of the weights there are two or three copies.

    Args:
        model: In eval mode; nobody else may change its weights from now on. With an archive, in any version from which
            the current one can be reached.
        codes: Its mnemonic codes; only `ask`, and `forget` without samples, need them.
        engine: What predicts, if not the model itself.
        archive: A folder that keeps what is done.
        forgotten: Classes that the model, as it is given, has forgotten; of edits in the archive they are known.
        undo: How long an edit can be undone: ``"keep"``, ``"never"``, or ``"expire:30d"`` and the like.
        audit: Measures each copy that `forget` edited, before anybody sees it, for the record; an error stops it.
        patience: Seconds that an edit waits for predictions that began before, and for an edit of another process.

    Attributes:
        codes: The codes.
        undo: How long an edit can be undone.
        history: Where edits and requests are kept.

    Raises:
        TypeError: The model is no module that runs in Python.
        ValueError: A setting is out of range, a module is in train mode, weights were made under
            ``torch.inference_mode`` or are constants of a compiled graph, or engine or archive are of another model.
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
        forgotten: int | Sequence[int] = (),
        undo: str = "keep",
        audit: Callable[[nn.Module], Mapping[str, Any] | AuditReport] | None = None,
        patience: float = 5.0,
    ) -> None:
        check_seconds("patience", patience)
        kept_until(undo, now())
        self._audit = audit
        self.codes: MnemonicCodes | None = codes
        self.undo: str = undo
        earlier = read_classes("forgotten", forgotten, None if codes is None else len(codes))
        with normal_tensors():
            self._weights = Weights(model, engine)
            self.history: History = open_history(archive)
            self._replica = Replica(self._weights, self.history, float(patience), earlier)
        self._editor, self._follower = Editor(self._replica, self.history, float(patience)), Follower(float(patience))

    @property
    def version(self) -> Version:
        """The current one."""
        return self._replica.version

    @property
    def versions(self) -> tuple[Version, ...]:
        """All of them, the first one first."""
        return self._replica.versions

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self._weights.dtype

    @property
    def device(self) -> torch.device:
        """Of the weights; the first one, where there are several."""
        return self._weights.device

    def predict(self, *args: Any, **kwargs: Any) -> Prediction:
        """Run the model, without gradients.

        Args:
            args: As its forward takes them.
            kwargs: Likewise.

        Returns:
            What it says, with the version.
        """
        return self._replica.predict(*args, **kwargs)

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
            undo: How long this edit can be undone; by default as for all.
            settings: As for `fastforget.one_shot`: ``level``, ``samples``, ``output_depth`` and so on. Classes that
                earlier versions forgot are passed as ``forgotten``. With ``samples``, codes are not needed.

        Returns:
            The version without them; its ``outcome`` says what was done, and what was short of its goal.

        Raises:
            ForgettingError: Another edit is being made, or no step does what is asked for.
            TimeoutError: Predictions, or an edit by another process, did not end in time.
            ValueError: There are neither codes nor samples, or the request was carried out already; see also
                `fastforget.one_shot`.
            OSError: The archive cannot be written, for instance for want of space.
        """
        codes = self.codes
        if settings.get("samples") is None:
            codes = self._needed_codes("give them to LiveModel, pass `samples`, or `apply` a receipt")
        undo = self._undo_or(undo)
        kept = settings.get("fisher") if settings.get("update") is True else None
        kept = kept if isinstance(kept, FisherDiagonal) else None  # one_shot refuses others
        with self._editor.edit(request, asked_by, cls) as edit, restored_on_error(kept, unless=edit.is_recorded):
            forgotten = settings.pop("forgotten", edit.before.classes)
            receipt = one_shot(edit.draft, codes, cls, forgotten=forgotten, **settings)
            measured = plain_audit(self._audit(edit.draft)) if self._audit else {}
            return edit.make("forget", receipt, undo, measured)

    def apply(
        self, receipt: Receipt, *, request: str | None = None, asked_by: str = "", undo: str | None = None
    ) -> Version:
        """Make an edit that was made on a copy of the model, for instance by another replica.

        Args:
            receipt: Of a model equal to the current version, bit for bit. Its classes may be forgotten already.
            request: As for `forget`; likewise the others.
            asked_by: Who asks for it.
            undo: How long it can be undone.

        Returns:
            The version that it makes.

        Raises:
            ForgettingError: Another edit is being made.
            TimeoutError: Predictions, or an edit by another process, did not end in time.
            ValueError: The receipt is of another model, or the request was carried out already.
            OSError: The archive cannot be written.
        """
        undo = self._undo_or(undo)
        with self._editor.edit(request, asked_by, receipt.classes) as edit:
            receipt.apply(edit.draft)
            check_classes(receipt, None if self.codes is None else len(self.codes))
            return edit.make("apply", receipt, undo)

    def revert(
        self, number: int, *, request: str | None = None, asked_by: str = "", current: int | None = None
    ) -> Version:
        """Go back to an earlier version.

        Args:
            number: Of a version whose edits are all among those of the current one.
            request: As for `forget`.
            asked_by: Who asks for it.
            current: The version that must still be the current one, if any.

        Returns:
            A new version with the same weights; the current one if these are its own.

        Raises:
            ForgettingError: Another edit is, or was, being made.
            TimeoutError: Predictions, or an edit by another process, did not end in time.
            ValueError: There is no such version, the current one does not begin with its edits, the old values of an
                edit since are not kept, or the request was carried out already.
            OSError: The archive cannot be written.
        """
        with self._editor.edit(request, asked_by, (), current) as edit:
            return edit.make_way_back(self._replica.earlier_version(number))

    def ask(self, cls: int | Sequence[int], *, request: str | None = None, asked_by: str = "") -> Request:
        """File a request to forget classes, which the thread of `follow` carries out, here or in another process.

        It carries no samples, and is carried out from the codes, with the defaults of `fastforget.one_shot`.

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
        check_texts(request, asked_by)
        classes = read_classes("cls", cls, len(self._needed_codes("give them to LiveModel")))
        if not classes:
            raise ValueError("`cls` must name at least one class, got none")
        return self.history.ask(Request(request or uuid.uuid4().hex, classes, asked_by, timestamp()))

    def requests(self) -> tuple[Request, ...]:
        """Return the requests that were filed, the first one first, with what became of them."""
        return tuple(self.history.requests())

    def proof(self, name: str) -> RecordProof | None:
        """Return the proof that a request is on record, for whoever filed it; None where no archive knows it."""
        return self.history.proof(name)

    def head(self, since: int = 0) -> HeadProof | None:
        """Return the head of the log for a witness that saw so many records, see `Archive.head`; None without one."""
        return self.history.head(since)

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
        return tuple(self.history.receipt(edit) for edit in self.versions[number].edits)

    def catch_up(self) -> Version:
        """Come to the version that the archive says, which others may have made.

        Returns:
            The current version.

        Raises:
            TimeoutError: Predictions did not end in time.
            ValueError: The old values with which an edit must be undone are no longer kept: start anew.
            OSError: The archive cannot be read.
        """
        self._editor.catch_up()
        return self.version

    def follow(self, every: float = 0.5) -> None:
        """Have a thread catch up, carry out what was asked for, and remove old values that are due, until `close`.

        `health` tells the trouble that it has; it goes on trying.

        Args:
            every: Seconds between two looks.

        Raises:
            ValueError: The time is not positive, or the thread runs already.
        """
        self._follower.start(every, self._keep_up, self._carry_out)

    def close(self) -> None:
        """End the thread of `follow`; predictions go on."""
        self._follower.stop()

    def health(self) -> dict[str, Any]:
        """Say how it is, see `health_of`; takes a pass over the weights."""
        return health_of(self._replica, self._editor, self._follower)

    def readiness(self) -> dict[str, Any]:
        """Say whether requests are carried out here, see `readiness_of`; waits for nothing."""
        return readiness_of(self._replica, self._follower)

    def _keep_up(self) -> list[Request]:
        """Come to the current version, remove old values that are due, and return the requests that wait."""
        if len(self.history.entries()) > self.version.number or self._replica.unwritten:
            self.catch_up()
        self._editor.expire()
        return [request for request in self.history.requests() if request.state == "waiting"]

    def _carry_out(self, request: Request) -> None:
        self.forget(request.classes, request=request.name, asked_by=request.asked_by)

    def _needed_codes(self, remedy: str) -> MnemonicCodes:
        if self.codes is None:
            raise ValueError(f"there must be `codes` to forget by: {remedy}")
        return self.codes

    def _undo_or(self, undo: str | None) -> str:
        """Return the undo policy of one edit, checked: its own, or that of all."""
        policy = self.undo if undo is None else undo
        kept_until(policy, now())
        return policy
