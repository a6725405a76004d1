"""Batches (inputs, targets) of samples with their classes: checked wherever they are gone through."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fastforget.classifier.data_forms import Batch, LabelledData, batches_of
from fastforget.classifier.inputs import count_samples
from fastforget.classifier.targets import kind_of

__all__ = [
    "RepeatableBatches",
    "check_classes",
    "check_logits",
    "joined",
    "labelled_batches",
    "sized_batches",
]


class RepeatableBatches:
    """Batches that can be gone through again and again, for training; each pass is that of `sized_batches`.

    Batches that come only once, such as those of a generator, are kept in memory. Those that a pair or a data set is
    cut into are drawn anew for each pass, by PyTorch's random state: data sets often lie in the order of the classes.

    Attributes:
        name: The argument that they were given as, for errors.
    """

    def __init__(self, data: LabelledData, name: str) -> None:
        self.name = name
        batches = batches_of(data, name, torch.default_generator)
        self._batches = batches if isinstance(batches, Sized) else list(batches)

    def __iter__(self) -> Iterator[Batch]:
        """Start a pass."""
        return sized_batches(self._batches, self.name)

    def __len__(self) -> int:
        """Return how many batches there are."""
        return len(self._batches)


def sized_batches(data: LabelledData, name: str, shuffle: torch.Generator | None = None) -> Iterator[Batch]:
    """Go through batches once, each checked to hold as many targets as inputs.

    The iterator of the batches is made at once: one that shuffles draws its order now.

    Args:
        data: The samples, in any form that `batches_of` takes.
        name: The argument that they were given as, for errors.
        shuffle: As for `batches_of`.

    Returns:
        The batches. The iterator raises ValueError where sizes differ, a batch is empty or there is none; TypeError
        where inputs have the wrong type.

    Raises:
        TypeError: The data has none of these forms.
        ValueError: A pair has not as many targets as inputs.
    """
    return _sized(iter(batches_of(data, name, shuffle)), name)


def labelled_batches(data: LabelledData, name: str) -> Iterator[Batch]:
    """Go through batches once as `sized_batches` does, each checked to have targets that are torch.int64 [N].

    Args:
        data: The samples, in any form that `batches_of` takes.
        name: The argument that they were given as, for errors.

    Returns:
        The batches. The iterator raises as that of `sized_batches`, and TypeError for other targets.

    Raises:
        TypeError: The data has none of these forms.
        ValueError: A pair has not as many targets as inputs.
    """
    return _labelled(sized_batches(data, name), name)


def joined(data: LabelledData, name: str) -> Batch:
    """Return all samples as one batch.

    Args:
        data: The samples, in any form that `batches_of` takes.
        name: The argument that they were given as, for errors.

    Returns:
        Inputs and targets, torch.int64 [N].

    Raises:
        TypeError: The data has none of these forms, or targets are no integers.
        ValueError: There is no batch, or batches differ in the shape of their samples or in their structure.
    """
    parts = list(labelled_batches(data, name))
    try:
        whole: Batch = pytree.tree_map(
            lambda *each: torch.cat(each) if isinstance(each[0], Tensor) else each[0], *parts
        )
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"batches of `{name}` must have samples of one shape, in one structure, for instance texts padded to one "
            f"length: {error}"
        ) from error
    return whole


def check_logits(logits: Tensor, name: str) -> int:
    """Check what a classifier returned for some samples.

    Args:
        logits: The logits.
        name: The argument that the samples were given as.

    Returns:
        C, the number of classes.

    Raises:
        ValueError: The logits are not finite or not of shape [N, C].
    """
    if logits.dim() != 2:
        raise ValueError(f"models must return logits [N, C], got shape {tuple(logits.shape)}")
    if not bool(logits.isfinite().all()):
        raise ValueError(f"models must return finite logits on `{name}`, got NaN or infinity")
    return logits.shape[1]


def check_classes(targets: Tensor, classes: int, name: str) -> None:
    """Check that targets are classes of a classifier.

    Args:
        targets: Integers [N], N at least 1.
        classes: C, the number of classes.
        name: The argument that the samples were given as.

    Raises:
        ValueError: A target is not in [0, C).
    """
    low, high = (int(bound) for bound in targets.aminmax())
    if low < 0 or high >= classes:
        raise ValueError(f"targets of `{name}` must be in [0, {classes}), got values from {low} to {high}")


def _sized(batches: Iterator[tuple[Any, Tensor]], name: str) -> Iterator[Batch]:
    empty = True
    for inputs, targets in batches:
        count_samples(inputs, targets)
        empty = False
        yield inputs, targets
    if empty:
        raise ValueError(f"`{name}` must hold at least one batch, got none")


def _labelled(batches: Iterator[Batch], name: str) -> Iterator[Batch]:
    for inputs, targets in batches:
        if not isinstance(targets, Tensor) or targets.dim() != 1 or targets.dtype != torch.int64:
            raise TypeError(f"targets of `{name}` must be torch.int64 [N], got {kind_of(targets)}")
        yield inputs, targets
