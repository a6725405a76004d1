"""A model that predicts in many threads while classes are forgotten from it."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

import torch
from torch import nn

from fastforget.codes import MnemonicCodes
from fastforget.errors import ForgettingError
from fastforget.fingerprint import fingerprint
from fastforget.model import check_eval, eager
from fastforget.one_shot import one_shot
from fastforget.receipt import Edit, Receipt, stage
from fastforget.serving.gate import Gate

__all__ = ["LiveModel", "Prediction", "Version"]


@dataclass(frozen=True)
class Prediction:
    """What the model said, and which version of it.

    Attributes:
        outputs: What its forward returned.
        version: Number of the version whose weights gave all of it.
    """

    outputs: Any
    version: int


@dataclass(frozen=True)
class Version:
    """A state of the model.

    Attributes:
        number: 0 for the first; each edit and each way back is a new one.
        fingerprint: Of the weights.
        created: When, UTC, ISO 8601.
        classes: All classes that are forgotten in it, in the order of the edits.
        receipts: The edits between version 0 and this one.
        seconds: How long predictions were kept out to make it.
    """

    number: int
    fingerprint: str
    created: str
    classes: tuple[int, ...]
    receipts: tuple[Receipt, ...]
    seconds: float


class LiveModel:
    """Predicts from many threads, while edits replace weights under it.

    An edit is worked out on a copy of the model, with predictions going on. Then new predictions wait for those inside
    to end, the changed weights are copied into the model's own storage, and all go on: no prediction sees a part of an
    edit, each says which version it saw. The memory is that of two models. Works where weights are seen where they lie:
    eager modules, ``torch.compile``, CUDA graphs. It refuses what has its own copy of them (TorchScript, frozen
    constants, sessions of other runtimes): there, apply the receipt to the source and load it anew.

    Args:
        model: In eval mode; nobody else may change its weights from now on.
        codes: Its mnemonic codes; only `forget` needs them.
        patience: For how many seconds an edit keeps new predictions waiting for those inside to end, before it gives
            up.

    Raises:
        TypeError: The model is no module that runs in Python.
        ValueError: A module is in train mode, weights were made under ``torch.inference_mode`` or are constants of a
            compiled graph, or ``patience`` is not positive.

    Example:
        >>> model = nn.Linear(4, 3).eval()
        >>> live = LiveModel(model)
        >>> live.predict(torch.zeros(1, 4)).version
        0
    """

    def __init__(self, model: nn.Module, codes: MnemonicCodes | None = None, *, patience: float = 5.0) -> None:
        if isinstance(patience, bool) or not isinstance(patience, (int, float)) or not patience > 0:
            raise ValueError(f"`patience` must be a positive number of seconds, got {patience!r}")
        source = eager(model)
        check_eval(source)
        _check_weights(model, source)
        self._model, self._source, self._codes, self._patience = model, source, codes, float(patience)
        self._copy = copy.deepcopy(source)
        self._gate, self._editing = Gate(), threading.Lock()
        first = Version(0, fingerprint(source), _now(), (), (), 0.0)
        self._versions = [first]

    @property
    def version(self) -> Version:
        """The current one."""
        return self._versions[-1]

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
            return Prediction(self._model(*args, **kwargs), self._versions[-1].number)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model, without gradients; return what it says."""
        return self.predict(*args, **kwargs).outputs

    def forget(self, cls: int | Sequence[int], **settings: Any) -> Version:
        """Forget classes.

        Args:
            cls: One class or several.
            settings: As for `fastforget.one_shot`; the classes of earlier versions are told it.

        Returns:
            The version without them.

        Raises:
            ForgettingError: Another edit is being made, or no step does what is asked for.
            TimeoutError: Predictions did not end in time.
            ValueError: There are no codes; see also `fastforget.one_shot`.
        """
        if self._codes is None:
            raise ValueError("there must be `codes` to forget by: give them to LiveModel, or `apply` a receipt")
        undo = settings.pop("undo", True)
        with self._edit() as now:
            forgotten = settings.pop("forgotten", now.classes)
            receipt = one_shot(self._copy, self._codes, cls, forgotten=forgotten, **settings)
            return self._publish([*now.receipts, receipt if undo else receipt.without_undo()], [receipt])

    def apply(self, receipt: Receipt) -> Version:
        """Make an edit that was made on a copy of the model, for instance by another replica.

        Args:
            receipt: Of a model equal to the current version, bit for bit.

        Returns:
            The version that it makes.

        Raises:
            ForgettingError: Another edit is being made.
            TimeoutError: Predictions did not end in time.
            ValueError: The receipt is of another model.
        """
        with self._edit() as now:
            receipt.apply(self._copy)
            return self._publish([*now.receipts, receipt], [receipt])

    def revert(self, number: int) -> Version:
        """Go back to an earlier version.

        Args:
            number: Of a version whose edits are all among those of the current one.

        Returns:
            A new version with the same weights.

        Raises:
            ForgettingError: Another edit is being made.
            TimeoutError: Predictions did not end in time.
            ValueError: There is no such version, its edits are not a beginning of the current ones, or one was made
                with ``undo=False``.
        """
        with self._edit() as now:
            if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < len(self._versions):
                raise ValueError(f"`number` must be that of a version, 0 to {now.number}, got {number!r}")
            kept = self._versions[number].receipts
            if now.receipts[: len(kept)] != kept:
                raise ValueError(f"version {number} has edits that version {now.number} has not: apply their receipts")
            undone = now.receipts[len(kept) :]
            if not all(receipt.reversible for receipt in undone):
                raise ValueError(f"version {number} cannot be gone back to: an edit since was made with undo=False")
            for receipt in reversed(undone):
                receipt.revert(self._copy)
            return self._publish(kept, undone)

    def health(self) -> dict[str, Any]:
        """Say how it is, for a health check.

        Returns:
            ``version``, ``fingerprint``, forgotten ``classes``, predictions ``inside``, whether an edit is ``editing``,
            and whether the weights are ``intact``: those of the version, which takes a pass over them and is None while
            an edit is made.
        """
        now = self.version
        found = {"version": now.number, "fingerprint": now.fingerprint, "classes": list(now.classes)}
        found |= {"inside": self._gate.inside, "editing": self._editing.locked(), "intact": None}
        if self._editing.acquire(blocking=False):
            try:
                found["intact"] = fingerprint(self._source) == self.version.fingerprint
            finally:
                self._editing.release()
        return found

    @contextmanager
    def _edit(self) -> Iterator[Version]:
        """Yield the current version; after an error the copy is what the model is."""
        if not self._editing.acquire(blocking=False):
            raise ForgettingError("another edit is being made; the model is unchanged")
        try:
            now = self.version
            if fingerprint(self._source) != now.fingerprint:
                raise ForgettingError(f"somebody else changed the weights since version {now.number} was made")
            try:
                yield now
            except BaseException:
                self._copy.load_state_dict(self._source.state_dict())
                raise
        finally:
            self._editing.release()

    def _publish(self, receipts: Sequence[Receipt], changes: Sequence[Receipt]) -> Version:
        """Copy what changed from the copy into the model."""
        made = Version(
            number=len(self._versions),
            fingerprint=fingerprint(self._copy),
            created=_now(),
            classes=tuple(cls for receipt in receipts for cls in receipt.classes),
            receipts=tuple(receipts),
            seconds=0.0,
        )
        commit = stage(self._source, _changed(self._copy, changes), old=False)
        devices = {parameter.device for parameter in self._source.parameters() if parameter.is_cuda}
        with self._gate.alone(self._patience):
            started = time.perf_counter()
            for device in devices:  # predictions may be under way on streams of their own
                torch.cuda.synchronize(device)
            commit()
            for device in devices:
                torch.cuda.synchronize(device)
            made = replace(made, seconds=time.perf_counter() - started)
            self._versions.append(made)
        return made


def _changed(model: nn.Module, receipts: Sequence[Receipt]) -> dict[str, Edit]:
    """Return the current values of a model wherever one of the edits touched it."""
    parameters, found = dict(model.named_parameters()), dict[str, Edit]()
    for name in sorted({name for receipt in receipts for name in receipt.edits}):
        places = [receipt.edits[name].indices for receipt in receipts if name in receipt.edits]
        value = parameters[name].detach()
        known = [place for place in places if place is not None]
        if len(known) < len(places):
            found[name] = Edit(tuple(value.shape), None, None, value.flatten().clone())
        else:
            indices = torch.cat([place.to(value.device) for place in known]).unique()
            found[name] = Edit(tuple(value.shape), indices, None, value.flatten()[indices])
    return found


def _check_weights(model: nn.Module, source: nn.Module) -> None:
    import torch._inductor.config as inductor  # noqa: PLC0415 (takes long to load, and only this needs it)

    if model is not source and inductor.freezing:
        raise ValueError(
            "`model` must see its weights where they lie; compiled with torch._inductor.config.freezing it holds them "
            "as constants: compile it without"
        )
    for name, value in source.named_parameters():
        if value.is_inference():
            raise ValueError(
                f"parameter `{name}` must be a normal tensor, got one made under torch.inference_mode, which cannot be "
                "changed in place: make the model outside of it"
            )


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
