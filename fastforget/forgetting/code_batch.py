"""The codes of a model as one batch, checked against the model and against the classes to forget."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fastforget.batch import Inputs, logits_of, tensors_of
from fastforget.codes import MnemonicCodes
from fastforget.errors import UnrecognisedCodesError
from fastforget.forgetting.micro_batches import gather_logits
from fastforget.forgetting.staging import run
from fastforget.losses import log_odds
from fastforget.structure import transform
from fastforget.waiting import constant, read

__all__ = [
    "DEVICE_ERRORS",
    "SHAPE_ERRORS",
    "CodeBatch",
    "LiveCodes",
    "at_least_some",
    "batch",
    "check_outputs",
    "classes_of",
    "examine",
    "fitting_logits",
    "mean_doubt",
    "prepare",
]

_RECOGNISED = 0.5
# What modules raise for inputs that they do not take; the others are RuntimeErrors too, and say nothing about inputs.
SHAPE_ERRORS = (RuntimeError, ValueError, IndexError, TypeError)
DEVICE_ERRORS = (torch.OutOfMemoryError, torch.AcceleratorError)


@dataclass(frozen=True)
class LiveCodes:
    """The codes of the classes that a model knows: all but those forgotten earlier.

    Attributes:
        codes: All codes, where the model is.
        classes: The classes that it knows, in order.
        batch_size: How many codes are run at a time; None for all.
    """

    codes: MnemonicCodes
    classes: tuple[int, ...]
    batch_size: int | None = None

    @cached_property
    def inputs(self) -> Inputs:
        """What the model takes, leaves [N, *shape]."""
        if len(self.classes) == len(self.codes):
            return self.codes.inputs
        at = constant(self.classes, self.codes.labels.device).long()
        return transform(lambda leaf: leaf.index_select(0, at).flatten(0, 1), self.codes.stacked)

    @cached_property
    def labels(self) -> Tensor:
        """The class of every sample, int64 [N]."""
        if len(self.classes) == len(self.codes):
            return self.codes.labels
        return constant(self.classes, self.codes.labels.device).long().repeat_interleave(self.codes.per_class)

    @property
    def gone(self) -> tuple[int, ...]:
        """The classes forgotten earlier, in order."""
        return tuple(c for c in range(len(self.codes)) if c not in self.classes)

    def __len__(self) -> int:
        """Return the number of codes, N."""
        return len(self.classes) * self.codes.per_class

    def without(self, classes: Sequence[int]) -> LiveCodes:
        """Return the codes of the other classes."""
        left = tuple(c for c in self.classes if c not in classes)
        return replace(self, classes=left) if classes else self

    def rows(self, cls: int) -> tuple[int, ...]:
        """Return which samples are codes of a class."""
        start = self.classes.index(cls) * self.codes.per_class
        return tuple(range(start, start + self.codes.per_class))


@dataclass(frozen=True)
class CodeBatch:
    """The codes as one batch.

    Attributes:
        inputs: What the model takes.
        labels: Class of each code, int64 [N].
        forget: Whether a code belongs to a class to forget, bool [N].
        odds: Log-odds of each code's own class under the model as it is, [N].
        per_class: Codes per class, M.
        logits: Of the model as it is, [N, C], where it was run.
        batch_size: How many are run at a time; None for all.

    What follows from them is computed once; where the host knows it already, `batch` and `examine` put it there, since
    reading it would wait for the device.
    """

    inputs: Inputs
    labels: Tensor
    forget: Tensor
    odds: Tensor
    per_class: int = 1
    logits: Tensor | None = None
    batch_size: int | None = None

    @property
    def groups(self) -> Tensor:
        """Per-sample weights of the two groups forget and remain, [2, N]."""
        return torch.stack([self.forget, ~self.forget]).float()

    @cached_property
    def rows(self) -> tuple[tuple[int, ...], ...]:
        """The codes of each class to forget."""
        labels, forget = (values.tolist() for values in (self.labels, self.forget))
        inside = sorted({label for label, chosen in zip(labels, forget, strict=True) if chosen})
        return tuple(tuple(n for n, label in enumerate(labels) if label == cls) for cls in inside)

    @cached_property
    def forget_rows(self) -> list[int]:
        """The codes to forget, in order."""
        return sorted(chain(*self.rows))

    @cached_property
    def remain_rows(self) -> list[int]:
        """The other codes, in order."""
        return sorted(set(range(len(self.labels))).difference(*self.rows))

    @cached_property
    def doubt(self) -> float:
        """The mean of 1 - p, positive even where float64 loses it."""
        return at_least_some(mean_doubt(self.odds).item())

    @property
    def scale(self) -> float:
        """What makes the gradients of the loss about as large as those of the log-odds."""
        return 1 / self.doubt

    def inside(self, values: Tensor) -> Tensor:
        """Return the values [N, ...] of the codes to forget, in order."""
        return _take(values, self.forget_rows)

    def outside(self, values: Tensor) -> Tensor:
        """Return the values [N, ...] of the other codes."""
        return _take(values, self.remain_rows)

    def samples(self, rows: Sequence[int]) -> tuple[Inputs, Tensor]:
        """Return the inputs and labels of some codes."""
        inputs: Inputs = pytree.tree_map(lambda leaf: _take(leaf, rows), self.inputs)
        return inputs, _take(self.labels, rows)

    def to_forget(self) -> CodeBatch:
        """Return the codes of the classes to forget alone."""
        chosen = self.forget_rows
        if len(chosen) == len(self.labels):
            return self
        inputs, labels = self.samples(chosen)
        forget, odds = self.inside(self.forget), self.inside(self.odds)
        few = CodeBatch(inputs, labels, forget, odds, self.per_class, batch_size=self.batch_size)
        place = {n: i for i, n in enumerate(chosen)}
        vars(few)["rows"] = tuple(tuple(place[n] for n in rows) for rows in self.rows)
        return few

    def least_forgotten(self, odds: Tensor) -> Tensor:
        """Return the mean of the log-odds [N] over the codes of a class to forget, where it is largest."""
        return torch.stack([_take(odds, rows).double().mean() for rows in self.rows]).max()

    def with_other(self, place: int) -> CodeBatch:
        """Return one code of each class to forget, and the code at a place among the others."""
        chosen = sorted([*(rows[0] for rows in self.rows), self.remain_rows[place]])
        inputs, labels = self.samples(chosen)
        forget, odds = (_take(values, chosen) for values in (self.forget, self.odds))
        few = CodeBatch(inputs, labels, forget, odds, batch_size=self.batch_size)
        vars(few)["rows"] = tuple((chosen.index(rows[0]),) for rows in self.rows)
        return few

    def loss_of_others(self, logits: Tensor) -> Tensor:
        """Return the largest of the `losses_of_others`."""
        return self.losses_of_others(logits).max()

    def losses_of_others(self, logits: Tensor) -> Tensor:
        """Return what each code outside has lost of its log-odds, the classes to forget left out of account.

        Args:
            logits: [N, C], now.

        Returns:
            Nats, by their place among the others; infinite where the logits are not finite.
        """
        labels = self.outside(self.labels)
        forgotten = self.inside(self.labels)
        odds = log_odds(self.outside(logits).index_fill(1, forgotten, -math.inf), labels)
        return (self.outside(self.odds) - odds).nan_to_num(nan=math.inf)


def _take(values: Tensor, rows: Sequence[int]) -> Tensor:
    """Some rows of a tensor, as a view where they follow each other."""
    if len(rows) and rows[-1] - rows[0] == len(rows) - 1:
        return values[rows[0] : rows[-1] + 1]
    return values.index_select(0, constant(rows, values.device).long())


def mean_doubt(odds: Tensor) -> Tensor:
    """Return the mean of 1 - p."""
    return torch.sigmoid(-odds.double()).mean()


def at_least_some(doubt: float) -> float:
    """Return a doubt that can be divided by."""
    return max(doubt, 1e-300)


def prepare(
    model: nn.Module,
    given: MnemonicCodes | Tensor,
    cls: int | Sequence[int],
    forgotten: int | Sequence[int],
    like: Tensor,
    batch_size: int | None = None,
) -> tuple[LiveCodes, tuple[int, ...]]:
    """Bring the codes to the device and dtype of a parameter, and check the classes to forget against them.

    Args:
        model: The eager module.
        given: The codes.
        cls: The classes.
        forgotten: The classes forgotten earlier.
        like: A parameter.
        batch_size: How many codes are run at a time; None for all.

    Returns:
        The codes of the classes that were not forgotten earlier, and the classes to forget in order.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument has a wrong value.
    """
    if not isinstance(given, (MnemonicCodes, Tensor)):
        raise TypeError(f"`mnemonic_codes` must be MnemonicCodes or a tensor, got {type(given).__name__}")
    codes = given if isinstance(given, MnemonicCodes) else _from_tensor(model, given, like)
    classes, gone = classes_of("cls", cls, len(codes)), classes_of("forgotten", forgotten, len(codes))
    if not classes:
        raise ValueError("`cls` must name at least one class, got none")
    if again := sorted(set(classes) & set(gone)):
        raise ValueError(f"`cls` must not name classes that were forgotten earlier, got {again}")
    live = tuple(c for c in range(len(codes)) if c not in gone)
    if len(classes) == len(live):
        raise ValueError(f"`cls` must leave at least one of {len(live)} classes, got all of them")
    # converted where they are: what is sent to a device is no larger then, and needs no check that waits for it
    return LiveCodes(codes.to(like.dtype).to(like.device), live, batch_size), classes


def batch(codes: LiveCodes, classes: Sequence[int], odds: Tensor, logits: Tensor | None = None) -> CodeBatch:
    """Return the codes as one batch, given their log-odds, [N], and what the model returned if it was run."""
    labels = codes.labels
    forget = torch.isin(labels, constant(classes, labels.device))
    found = CodeBatch(codes.inputs, labels, forget, odds, codes.codes.per_class, logits, codes.batch_size)
    vars(found)["rows"] = tuple(codes.rows(c) for c in classes)
    return found


def examine(model: nn.Module, codes: LiveCodes, classes: Sequence[int]) -> CodeBatch:
    """Run the model on the codes and check that it knows them.

    Args:
        model: The eager module.
        codes: The codes, as `prepare` returns them.
        classes: The classes to forget.

    Returns:
        The codes with their log-odds.

    Raises:
        ValueError: The model does not take the codes, or its outputs do not fit.
        UnrecognisedCodesError: The model does not know them.
    """

    def fitting(some: Inputs) -> Tensor:
        logits = fitting_logits(model, some, "mnemonic_codes")
        check_outputs(logits, codes, len(tensors_of(some)[0]))
        return logits

    found = gather_logits(fitting, codes.inputs, codes.batch_size)
    known = batch(codes, classes, log_odds(found, codes.labels), found)
    vars(known)["doubt"] = _check_recognised(found, known)
    return known


def check_outputs(logits: Tensor, codes: LiveCodes, samples: int | None = None) -> None:
    """Check that a model returns one logit per class of the codes.

    Args:
        logits: What it returned.
        codes: The codes.
        samples: How many of the codes it was given; all of them by default.

    Raises:
        ValueError: It does not.
    """
    total, per_class = len(codes.codes), codes.codes.per_class
    if logits.shape != (samples or len(codes), total):
        raise ValueError(
            f"`mnemonic_codes` must have one class per output of the model, got {total} classes x "
            f"{per_class} codes, and outputs of shape {tuple(logits.shape)}"
        )


def _from_tensor(model: nn.Module, tensor: Tensor, like: Tensor) -> MnemonicCodes:
    """Read a tensor as [C, *shape] if the model takes its first row as one sample, else as [C, M, *shape]."""
    if tensor.dim() < 2 or tensor.numel() == 0:
        raise ValueError(f"`mnemonic_codes` must be [C, *shape] or [C, M, *shape], got shape {tuple(tensor.shape)}")
    if tensor.device.type == "meta":
        raise ValueError("`mnemonic_codes` must hold values, got a tensor on the meta device")
    tensor = tensor.detach().to(device=like.device, dtype=like.dtype if tensor.is_floating_point() else tensor.dtype)
    try:
        single = logits_of(run(model, tensor[:1])).dim() == 2
    except DEVICE_ERRORS:
        raise
    except SHAPE_ERRORS:
        single = False
    return MnemonicCodes.from_tensors(tensor.unsqueeze(1) if single or tensor.dim() == 2 else tensor)


def fitting_logits(model: nn.Module, inputs: Inputs, name: str) -> Tensor:
    """Return the model's logits, or say that the inputs are not what it takes.

    Args:
        model: The eager module.
        inputs: What its forward may take.
        name: How to call the inputs.

    Raises:
        ValueError: The inputs do not fit.
        DEVICE_ERRORS: They may, but the device has no room for them now, or is in trouble.
    """
    try:
        outputs = run(model, inputs)
    except DEVICE_ERRORS:
        raise
    except SHAPE_ERRORS as error:
        shapes = [tuple(tensor.shape[1:]) for tensor in tensors_of(inputs)]
        raise ValueError(
            f"`{name}` must be what the model's forward takes, got samples of shape "
            f"{', '.join(map(str, shapes))}: {error}"
        ) from error
    return logits_of(outputs)


def classes_of(name: str, given: int | Sequence[int], total: int) -> tuple[int, ...]:
    """Return classes that a caller named, in order.

    Args:
        name: Of the argument.
        given: One class or several.
        total: How many there are.

    Returns:
        The classes; none where none are given.

    Raises:
        TypeError: They are no integers.
        ValueError: One is out of range or named twice.
    """
    values: list[Any] = [given]
    if isinstance(given, Iterable) and getattr(given, "shape", None) != ():  # arrays without dimensions claim to be
        values = list(given)
    try:
        classes = [operator.index(value) for value in values]
    except TypeError as error:
        raise TypeError(f"`{name}` must be an int or a sequence of ints, got {given!r}") from error
    if any(isinstance(value, bool) or getattr(value, "dtype", None) == torch.bool for value in values):
        raise TypeError(f"`{name}` must be an int or a sequence of ints, got {given!r}")
    if len(set(classes)) != len(classes):
        raise ValueError(f"`{name}` must name each class once, got {classes}")
    if classes and (min(classes) < 0 or max(classes) >= total):
        raise ValueError(f"`{name}` must lie in [0, {total}), got {classes}")
    return tuple(sorted(classes))


def _check_recognised(found: Tensor, codes: CodeBatch) -> float:
    """Refuse codes that the model does not know; return the doubt, which is read with the rest."""
    right = found.argmax(1) == codes.labels
    missed = codes.forget & ~right
    (finite,), (share,), (missing,), (doubt,) = read(
        torch.isfinite(found).all(), right.float().mean(), missed.any(), mean_doubt(codes.odds)
    )
    if not finite:
        raise ValueError("`model` must give finite logits on the codes, got NaN or infinity")
    if share >= _RECOGNISED and not missing:
        return at_least_some(doubt)
    unknown = codes.labels[missed].unique().tolist()
    which = f", not all of class {', '.join(map(str, unknown))}" if unknown else ""
    raise UnrecognisedCodesError(
        f"`mnemonic_codes` must be known to the model, but it recognises {share:.0%} of them{which}. Train or "
        "fine-tune it with the codes (codes.embed), pass a few real images per class as codes "
        "(MnemonicCodes.from_tensors), or name the classes forgotten earlier (forgotten=)"
    )
