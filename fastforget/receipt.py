"""What an edit of a model changed: enough to undo it, to put it onto a copy, and to tell what was done."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

from fastforget import ops
from fastforget.files import receipt_file
from fastforget.fingerprint import fingerprint
from fastforget.model import eager
from fastforget.waiting import constant

__all__ = ["Edit", "Receipt", "stage", "write"]


@dataclass(frozen=True, eq=False)
class Edit:
    """The changed elements of one parameter.

    Attributes:
        shape: Shape of the parameter.
        indices: Row-major positions, int32 or int64 [K], increasing; None if every element changed.
        old: The values before, [K] in the parameter's dtype; None if they were not kept.
        new: The values after, [K].
    """

    shape: tuple[int, ...]
    indices: Tensor | None
    old: Tensor | None
    new: Tensor

    def __post_init__(self) -> None:
        """Check that the parts fit together, so that nothing half-sensible is ever written to a model."""
        size = math.prod(self.shape)
        if self.new.dim() != 1 or (self.indices is None and len(self.new) != size):
            raise ValueError(f"an edit must hold one new value per changed element, got shape {tuple(self.new.shape)}")
        if self.old is not None and (self.old.shape != self.new.shape or self.old.dtype != self.new.dtype):
            raise ValueError("an edit must hold as many old values as new ones, of the same dtype")
        if self.indices is None:
            return
        if self.indices.shape != self.new.shape or self.indices.dtype not in (torch.int32, torch.int64):
            raise ValueError("an edit must hold one int32 or int64 index per changed element")
        if len(self.indices) and (int(self.indices.min()) < 0 or int(self.indices.max()) >= size):
            raise ValueError(f"an edit's indices must lie in [0, {size})")
        if len(self.indices) > 1 and not bool((self.indices[1:] > self.indices[:-1]).all()):
            raise ValueError("an edit's indices must increase")

    @classmethod
    def selected(cls, shape: tuple[int, ...], indices: Tensor | None, old: Tensor | None, new: Tensor) -> Edit:
        """Return an edit of parts that are known to fit, from `ops.select_indices`: a look would wait for a device."""
        edit = object.__new__(cls)
        vars(edit).update(shape=shape, indices=indices, old=old, new=new)
        return edit


@dataclass(frozen=True, eq=False, repr=False)
class Receipt:
    """The record of one edit of a model, as `one_shot` and `learn_to_unlearn` return it.

    Attributes:
        classes: The forgotten classes; none where samples were forgotten.
        rule: The rule that found the change.
        settings: The rule's arguments.
        alpha: The step that was taken; 1 for many steps.
        created: When, UTC, ISO 8601.
        before: Fingerprint of the model before the edit.
        after: Fingerprint of the model after it.
        total: Number of elements of all the parameters of the model.
        seconds: Wall time by phase, and "total".
        evidence: What was measured on the codes, nats. Mean log-odds of those of the forgotten and of the remaining
            classes, before and after: ``forget_log_odds_before`` and so on, the forgotten ones' without the lowered
            output bias. ``remain_log_odds_lost``: the most that a remaining code lost among what remains, see
            docs/one-shot.md for what it says of accuracy. ``silenced_by``: by how much the logits of the forgotten
            classes were lowered by their output bias. Nothing of the remaining codes after the edit where a kept Fisher
            spared their run.
        kept_fisher: Whether the Fisher of all codes was given instead of computed.
        edits: The changed elements by parameter name.
    """

    classes: tuple[int, ...]
    rule: str
    settings: Mapping[str, Any]
    alpha: float
    created: str
    before: str
    after: str
    total: int
    seconds: Mapping[str, float]
    evidence: Mapping[str, float]
    kept_fisher: bool = False
    edits: Mapping[str, Edit] = field(default_factory=dict)

    @property
    def changed(self) -> int:
        """Number of changed elements."""
        return sum(len(edit.new) for edit in self.edits.values())

    @property
    def share(self) -> float:
        """Changed elements as a share of all, in [0, 1]."""
        return self.changed / self.total if self.total else 0.0

    @property
    def reversible(self) -> bool:
        """Whether the old values were kept."""
        return all(edit.old is not None for edit in self.edits.values())

    def __repr__(self) -> str:
        """Summarise in one line."""
        return (
            f"Receipt(classes={list(self.classes)}, rule={self.rule!r}, changed={self.changed} of {self.total}, "
            f"reversible={self.reversible}, created={self.created!r})"
        )

    def revert(self, model: nn.Module) -> None:
        """Put every changed bit of the model back.

        Args:
            model: The model as the edit left it, or a copy.

        Raises:
            ValueError: The receipt was made with ``undo=False``, or the model is not the one the edit left.
        """
        if not self.reversible:
            raise ValueError("this receipt must hold the old values to be reverted; it was made with undo=False")
        _check(model, self.after, "as this edit left it")
        write(eager(model), self.edits, old=True)

    def apply(self, model: nn.Module) -> None:
        """Make the same edit on another copy of the model.

        Args:
            model: A model equal, bit for bit, to the one the edit was made on.

        Raises:
            ValueError: The model is another one.
        """
        _check(model, self.before, "the one this edit was made on")
        write(eager(model), self.edits, old=False)

    def without_undo(self) -> Receipt:
        """Return the same receipt without the old values: it can be applied but not reverted."""
        edits = {name: Edit.selected(e.shape, e.indices, None, e.new) for name, e in self.edits.items()}
        return Receipt(**{**self.__dict__, "edits": edits})

    def save(self, path: str | PathLike[str]) -> None:
        """Write a safetensors file; its size is proportional to the number of changed elements.

        Args:
            path: The file; overwritten if it exists.
        """
        receipt_file.write(path, self.describe(), {name: _parts(edit) for name, edit in self.edits.items()})

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Receipt:
        """Read a receipt; a file from a stranger can be refused but cannot run code.

        Args:
            path: The file.

        Returns:
            The receipt, its tensors on the CPU.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is truncated, changed, foreign or of a newer version.
        """
        try:
            description, parts = receipt_file.read(path)
            shapes = description.pop("shapes")
            edits = {
                name: Edit(tuple(shapes[name]), found.get("indices"), found.get("old"), found["new"])
                for name, found in parts.items()
            }
        except ValueError as error:
            raise ValueError(f"`{path}` is not a usable receipt: {error}") from error
        return cls(**{**description, "classes": tuple(description["classes"])}, edits=edits)

    def describe(self) -> dict[str, Any]:
        """Return everything but the values as plain data, for logs and file headers."""
        plain = {key: value for key, value in self.__dict__.items() if key != "edits"}
        plain = {key: dict(value) if isinstance(value, Mapping) else value for key, value in plain.items()}
        shapes = {name: list(edit.shape) for name, edit in self.edits.items()}
        return {**plain, "classes": list(self.classes), "shapes": shapes}


def _parts(edit: Edit) -> dict[str, Tensor]:
    parts = {"indices": edit.indices, "old": edit.old, "new": edit.new}
    return {key: value for key, value in parts.items() if value is not None}


def _check(model: nn.Module, expected: str, what: str) -> None:
    found = fingerprint(model)
    if found != expected:
        raise ValueError(
            f"`model` must be {what}: its fingerprint must be {expected}, got {found}; nothing was changed"
        )


def write(model: nn.Module, edits: Mapping[str, Edit], *, old: bool) -> None:
    """Write the old or new values of all edits into the model's own storage; as `stage`, at once."""
    stage(model, edits, old=old)()


def stage(model: nn.Module, edits: Mapping[str, Edit], *, old: bool) -> Callable[[], None]:
    """Prepare to write the old or new values of all edits into the model's own storage.

    Everything is checked and put in place here, so that the writes themselves are one short section.

    Args:
        model: The eager module.
        edits: What to write, by parameter name.
        old: Write the old values instead of the new ones.

    Returns:
        What writes them; the parameters must not change before.

    Raises:
        ValueError: A parameter is missing, or has another shape or dtype.
    """
    parameters = dict(model.named_parameters())
    sparse: list[tuple[Tensor, Tensor, Tensor]] = []
    whole: list[tuple[Tensor, Tensor]] = []
    for name, edit in edits.items():
        values = edit.old if old else edit.new
        parameter = parameters.get(name)
        if values is None:
            raise ValueError(f"the receipt must hold the old values of parameter `{name}`")
        if parameter is None:
            raise ValueError(f"`model` must have parameter `{name}` of this receipt")
        if tuple(parameter.shape) != edit.shape or parameter.dtype != values.dtype:
            raise ValueError(
                f"parameter `{name}` must be {values.dtype} of shape {edit.shape}, got {parameter.dtype} of "
                f"{tuple(parameter.shape)}"
            )
        target, values = parameter.detach(), values.to(parameter.device)
        if edit.indices is None:
            whole.append((target, values.view(edit.shape)))
        elif target.is_contiguous():
            sparse.append((target, edit.indices.to(target.device, torch.int64), values))
        else:
            changed = target.flatten().index_copy(0, edit.indices.to(target.device, torch.int64), values)
            whole.append((target, changed.view(edit.shape)))
    if not sparse:
        return partial(_write, (), None, whole)
    targets = [target for target, _, _ in sparse]
    counts = constant([len(places) for _, places, _ in sparse], targets[0].device)
    elements = torch.cat([places for _, places, _ in sparse]), counts, torch.cat([values for _, _, values in sparse])
    return partial(_write, targets, elements, whole)


def _write(
    targets: Sequence[Tensor], elements: tuple[Tensor, Tensor, Tensor] | None, whole: Sequence[tuple[Tensor, Tensor]]
) -> None:
    with torch.no_grad():
        if elements is not None:
            ops.perturb_write(targets, *elements)
            torch.autograd.graph.increment_version(targets)
        for target, tensor in whole:
            target.copy_(tensor)
    # inside torch.autocast, predictions would go on with casts of the old values
    torch.clear_autocast_cache()
