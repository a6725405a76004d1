"""The receipt of an edit: what changed, enough to undo it and to repeat it on a copy, and how it came about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timezone
from os import PathLike
from typing import TYPE_CHECKING, Any

from torch import nn

from fastforget.classifier.class_names import list_classes, name_class, read_names
from fastforget.classifier.class_numbers import read_classes
from fastforget.classifier.clock import Clock
from fastforget.classifier.compilation import eager
from fastforget.classifier.fingerprint import fingerprint
from fastforget.edits.advice import advice_of
from fastforget.edits.claims import claims_of, outcome_of
from fastforget.edits.comparison import Comparison, State
from fastforget.edits.edit import Edit, write_exactly
from fastforget.edits.receipt_page import receipt_as_html
from fastforget.edits.settings import read_settings
from fastforget.files import receipt_file
from fastforget.files.versions import current_versions

if TYPE_CHECKING:
    from fastforget.files.signing import PublicKey, SigningKey

__all__ = ["Receipt", "check_fingerprint", "check_reversible"]


@dataclass(frozen=True, eq=False, repr=False)
class Receipt:
    """The record of one edit of a model, as `one_shot` and `learn_to_unlearn` return it.

    Attributes:
        classes: The forgotten classes; of `learn_to_unlearn`, those of which nothing remains. None where samples were
            forgotten.
        rule: The rule that found the change.
        settings: The rule's arguments.
        alpha: The step that was taken; 1 for many steps.
        created: When, UTC, ISO 8601.
        before: Fingerprint of the model before the edit.
        after: Fingerprint of the model after it.
        total: Number of elements of all the parameters of the model, and of the buffers that changed.
        seconds: Wall time by phase, and "total".
        evidence: What was measured. For `learn_to_unlearn`, the number of steps and losses, and what is said below
            of classes of which nothing remains. For `one_shot`, log-odds
            ``log(p / (1 - p))`` of codes, in nats (natural logarithms):
            ``forget_log_odds_before`` and ``forget_log_odds_after``: the mean over the codes of the forgotten classes,
            by the step alone, without what was done to the output layer. ``remain_log_odds_before`` and
            ``remain_log_odds_after``: the mean over those of the remaining classes.
            ``remain_log_odds_lost``: the most that a remaining code lost among the remaining classes. What it says of
            accuracy is in docs/explain/one-shot.md.
            Where a kept Fisher made a run of the remaining codes needless, nothing is said of them after the edit.

            `claims` and `outcome` are read from the following:
            ``silenced_by``: by how many nats the output bias alone lowers the logits of the forgotten classes; 0 where
            they were not silenced.
            ``disconnected``: 1 if their output rows are those of classes that were never seen, else 0.
            ``output_depth``: how far beyond the decision boundary the output layer puts the classes, on average over
            their samples or, without these, their codes; nats of log-odds. Without any of both, the depth that the
            rows were computed for. ``output_depth_goal``: how far it was to put them.
            ``dispersed``: 1 if the features of the classes are spread over those of others, 0 if this was asked for
            and fell short; missing where it was not asked for. ``features_left``: how much of the way is left from
            where the features of the samples were to those of other classes, in [0, 1], root mean square.
            ``features_left_goal``: the most that counts as dispersed. More figures: see `Dispersal`.
            ``forget_samples_used``, ``forget_samples_recognised``: how many samples of the classes were used, and how
            many of these the model took for their class; missing where that is all.
        kept_fisher: Whether the Fisher of all codes was given instead of computed.
        forgotten: The classes that were forgotten earlier, as far as the caller named them.
        codes: Fingerprint of the mnemonic codes, see `MnemonicCodes.fingerprint`; empty where there were none, and in
            files of older versions.
        versions: Of "fastforget" and "torch", which made the edit; empty in files of older versions.
        edits: The changed elements by name of the parameter or buffer.
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
    forgotten: tuple[int, ...] = ()
    codes: str = ""
    versions: Mapping[str, str] = field(default_factory=current_versions)
    edits: Mapping[str, Edit] = field(default_factory=dict)

    @classmethod
    def between(
        cls,
        before: State,
        after: State,
        *,
        classes: int | Sequence[int] = (),
        rule: str = "between",
        settings: Mapping[str, float | str] | None = None,
    ) -> Receipt:
        """Make the receipt of an edit that was made by other means, from the model before and after it.

        The edit holds every element of a parameter or buffer that differs in any bit: with its position where few do,
        else the whole tensor. Tensors that do not differ take no room. To make an edit and its receipt at once, see
        `recording`.

        Args:
            before: The model before the edit, for instance a `copy.deepcopy`. Or its state dict, if `after` is a
                module: a copy too, since a state dict shares the memory of its model.
            after: The model after the edit; or its state dict, if `before` is a module.
            classes: What was forgotten, for the record; none where samples were.
            rule: How, for the record.
            settings: With which settings, for the record: numbers and texts.

        Returns:
            The receipt; its values are copies, on the device of `after`.

        Raises:
            TypeError: An argument has the wrong type.
            ValueError: The models are not of the same architecture (names, shapes or dtypes differ), an element became
                NaN or infinite, or `before` is in the memory of `after`.
            NotImplementedError: A parameter or buffer is on a device without kernels.

        Example:
            >>> import copy
            >>> model = nn.Linear(2, 2)
            >>> before = copy.deepcopy(model)
            >>> _ = nn.init.zeros_(model.bias)  # any edit
            >>> receipt = Receipt.between(before, model, rule="bias away")
            >>> receipt.changed, receipt.rule
            (2, 'bias away')
            >>> receipt.revert(model)
            >>> bool((model.bias == before.bias).all())
            True
        """
        clock = Clock()
        said = read_settings(rule, settings)
        named = read_classes("classes", classes)
        found = Comparison.of(before, after)
        return cls(
            classes=named,
            rule=rule,
            settings=said,
            alpha=1.0,
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            before=found.before,
            after=found.after,
            total=found.total,
            seconds=clock.seconds(),
            evidence={},
            edits=found.edits,
        )

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

    @property
    def claims(self) -> tuple[str, ...]:
        """What was done to the classes: some of "silenced", "disconnected" and "dispersed".

        * silenced: an output bias hides them, and who raises it again sees them again;
        * disconnected: their output rows are those of classes that were never seen;
        * dispersed: their features are spread over those of other classes.

        None where the evidence does not say, as for samples.
        """
        return claims_of(self.evidence)

    @property
    def outcome(self) -> str:
        """What `claims` says, with the depth that was reached, and what was short of its goal; one phrase."""
        return outcome_of(self.evidence)

    @property
    def advice(self) -> str:
        """What would take the classes out further, and what that takes; empty where nothing here would."""
        return advice_of(self.rule, self.evidence, coded=bool(self.codes))

    def __repr__(self) -> str:
        """Summarise in one line."""
        outcome = f"outcome={self.outcome!r}, " if self.outcome else ""
        return (
            f"Receipt(classes={list(self.classes)}, rule={self.rule!r}, {outcome}changed={self.changed} of "
            f"{self.total}, reversible={self.reversible}, created={self.created!r})"
        )

    def _repr_html_(self) -> str:
        return receipt_as_html(self.summary(), self.describe(), reversible=self.reversible)

    def revert(self, model: nn.Module) -> None:
        """Put every changed bit of the model back.

        Args:
            model: The model as the edit left it, or a copy.

        Raises:
            ValueError: The receipt was made with ``undo=False``, the model is not the one the edit left, or the values
                are not those of the model before the edit; the model is as it was.
        """
        check_reversible(self)
        check_fingerprint(self, model, old=True)
        write_exactly(eager(model), self.edits, self.before, old=True)

    def apply(self, model: nn.Module) -> None:
        """Make the same edit on another copy of the model.

        Args:
            model: A model equal, bit for bit, to the one the edit was made on.

        Raises:
            ValueError: The model is another one, or the values are not finite, or not those of the model after the
                edit; the model is as it was.
        """
        check_fingerprint(self, model, old=False)
        write_exactly(eager(model), self.edits, self.after, old=False)

    def without_undo(self) -> Receipt:
        """Return the same receipt without the old values: it can be applied but not reverted."""
        return replace(self, edits={name: edit.without_old() for name, edit in self.edits.items()})

    def save(self, path: str | PathLike[str], *, key: SigningKey | None = None) -> None:
        """Write a safetensors file; its size is proportional to the number of changed elements.

        Args:
            path: The file; overwritten if it exists.
            key: Signs it, see `fastforget.files.signing`.
        """
        receipt_file.write(path, self._header(), {name: edit.parts() for name, edit in self.edits.items()}, key)

    @classmethod
    def load(cls, path: str | PathLike[str], *, signed_by: PublicKey | None = None) -> Receipt:
        """Read a receipt; a file from a stranger can be refused but cannot run code.

        Args:
            path: The file.
            signed_by: Who must have signed it. Without, a signature is checked, but anybody may have signed.

        Returns:
            The receipt, its tensors on the CPU.

        Raises:
            FileNotFoundError: There is no such file.
            ModuleNotFoundError: It is signed, and the extra ``signing`` is not installed.
            ValueError: The file is truncated, changed, foreign, of a newer version, or not signed by the key.
        """
        try:
            description, parts = receipt_file.read(path, signed_by)
            shapes = description.pop("shapes")
            edits = {
                name: Edit(tuple(shapes[name]), part.get("indices"), part.get("old"), part["new"])
                for name, part in parts.items()
            }
        except ValueError as error:
            raise ValueError(f"`{path}` is not a usable receipt: {error}") from error
        named = {name: tuple(description[name]) for name in ("classes", "forgotten")}
        return cls(**{**description, **named, "edits": edits})

    def describe(self, names: Sequence[str] | None = None) -> dict[str, Any]:
        """Return everything but the values as plain data, for logs: the attributes, `claims`, `outcome` and `advice`.

        Args:
            names: What classes 0, 1, ... are called. They are then in ``class_names``, in the order of ``classes``.

        Returns:
            The data, as JSON knows it.

        Raises:
            TypeError: The names are no texts.
        """
        known = read_names(names)
        named = {} if known is None else {"class_names": list_classes(self.classes, known)}
        said = {"claims": list(self.claims), "outcome": self.outcome, "advice": self.advice}
        return {**self._header(), **named, **said}

    def summary(self, names: Sequence[str] | None = None) -> str:
        """Return a line for people: the classes, `outcome`, and how much changed.

        Args:
            names: What classes 0, 1, ... are called, for instance
                `fastforget.classifier.class_names.class_names` of a model. A class beyond them has its number alone.

        Returns:
            A line such as "class 9 (ankle boot): disconnected, 12.0 nats deep; 30 of 100 parameters changed (30.00%)".

        Raises:
            TypeError: The names are no texts.
        """
        named = ", ".join(name_class(cls, read_names(names)) for cls in self.classes)
        what = "samples" if not named else f"class {named}" if len(self.classes) == 1 else f"classes {named}"
        outcome = f": {self.outcome};" if self.outcome else ","
        return f"{what}{outcome} {self.changed:,} of {self.total:,} parameters changed ({self.share:.2%})"

    def _header(self) -> dict[str, Any]:
        """Return what a file says beside the values."""
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "edits"}
        plain = {name: dict(value) if isinstance(value, Mapping) else value for name, value in values.items()}
        shapes = {name: list(edit.shape) for name, edit in self.edits.items()}
        return {**plain, "classes": list(self.classes), "forgotten": list(self.forgotten), "shapes": shapes}


def check_reversible(receipt: Receipt) -> None:
    """Raise ValueError if a receipt does not hold the old values."""
    if not receipt.reversible:
        raise ValueError("this receipt must hold the old values to be reverted; it was made with undo=False")


def check_fingerprint(receipt: Receipt, model: nn.Module, *, old: bool, name: str = "its fingerprint") -> None:
    """Raise ValueError if an edit does not fit a model.

    Args:
        receipt: The receipt of the edit.
        model: The model, or the parts of it that the receipt is about.
        old: Whether the old values are to be written, not the new ones.
        name: What is compared, in the error.

    Raises:
        ValueError: The model is not as the edit left it, or not the one that it was made on.
    """
    expected, what = (
        (receipt.after, "as this edit left it") if old else (receipt.before, "the one this edit was made on")
    )
    found = fingerprint(model)
    if found != expected:
        raise ValueError(f"`model` must be {what}: {name} must be {expected}, got {found}; nothing was changed")
