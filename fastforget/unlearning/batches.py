"""Batches of samples to forget and of remaining ones, gone through again and again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
)

from fastforget.batch import Inputs, batch_size, forward, logits_of

__all__ = ["Batch", "Forgotten", "Stream", "check_disjoint"]

Batch: TypeAlias = tuple[Inputs, Tensor]


@dataclass(frozen=True)
class Forgotten:
    """Samples to forget.

    Attributes:
        inputs: As the model's forward takes them.
        targets: Their classes, int64 [N].
        goals: What it would say of them had it not been trained on them, probabilities [N, C], if that is known.
        twins: What it says of unseen samples like them, logits [N, C], if these are known.
    """

    inputs: Inputs
    targets: Tensor
    goals: Tensor | None = None
    twins: Tensor | None = None


class Stream:
    """The batches of an iterable without end; those of the first pass are checked before they are handed out."""

    def __init__(self, model: nn.Module, data: Iterable[tuple[Any, Tensor]], name: str) -> None:
        """Keep what cannot be gone through twice.

        Args:
            model: The eager module that they are for.
            data: Batches (inputs, targets), for instance a DataLoader.
            name: What to call them in errors.
        """
        self._model, self._name = model, name
        self._data = data if isinstance(data, Sized) else list(data)
        self._batches = self._endless()

    def __next__(self) -> Batch:
        """Return the next batch.

        Raises:
            TypeError: Inputs or targets have the wrong type.
            ValueError: There is none, or targets are no classes of the model.
        """
        return next(self._batches)

    def several(self, count: int) -> list[Batch]:
        """Return the next batches."""
        return [next(self) for _ in range(count)]

    def once(self) -> list[Batch]:
        """Return the batches of a pass, checked; what is shuffled comes in an order of its own."""
        classes, found = None, []
        for inputs, targets in self._data:
            classes = self._check(inputs, targets, classes)
            found.append((inputs, targets))
        if not found:
            raise ValueError(f"`{self._name}` must hold at least one batch, got none")
        return found

    def classes(self) -> set[int]:
        """Return the classes of all samples, from a pass over them."""
        found, classes = set[int](), None
        for inputs, targets in self._data:
            classes = self._check(inputs, targets, classes)
            found.update(targets.tolist())
        if not found:
            raise ValueError(f"`{self._name}` must hold at least one batch, got none")
        return found

    def _endless(self) -> Iterator[Batch]:
        classes = None
        for inputs, targets in self._data:
            classes = self._check(inputs, targets, classes)
            yield inputs, targets
        while True:
            found = False
            for inputs, targets in self._data if classes else ():
                found = True
                yield inputs, targets
            if not found:
                raise ValueError(f"`{self._name}` must hold at least one batch, each time it is gone through, got none")

    def _check(self, inputs: Inputs, targets: Any, classes: int | None) -> int:
        """Check a batch; return how many classes there are, which the first one is run for."""
        batch_size(inputs, targets)
        if not isinstance(targets, Tensor) or targets.dtype != torch.int64:
            kind = targets.dtype if isinstance(targets, Tensor) else type(targets).__name__
            raise TypeError(f"targets of `{self._name}` must be torch.int64, got {kind}")
        if classes is None:
            with torch.no_grad():
                logits = logits_of(forward(self._model, inputs))
            if logits.dim() != 2:
                raise ValueError(f"`model` must return logits [N, C], got shape {tuple(logits.shape)}")
            if not bool(logits.isfinite().all()):
                raise ValueError(f"`model` must return finite logits on `{self._name}`, got NaN or infinity")
            classes = logits.shape[1]
        low, high = (int(bound) for bound in targets.aminmax())
        if low < 0 or high >= classes:
            raise ValueError(f"targets of `{self._name}` must be in [0, {classes}), got values from {low} to {high}")
        return classes


def check_disjoint(forget: object, remain: object) -> None:
    """Raise if samples to forget are seen to be among the remaining ones: the same loader, or parts of one data set.

    Args:
        forget: Batches, for instance a DataLoader.
        remain: Others.

    Raises:
        ValueError: They have samples in common. Copies of samples are not found.
    """
    if forget is remain:
        raise ValueError("`forget` and `remain` must not be the same object")
    (one, rows), (other, others) = _origin(forget), _origin(remain)
    if one is None or one is not other:
        return
    common = set(rows) & set(others)
    if common:
        raise ValueError(
            f"`forget` and `remain` must have no samples in common, got {len(common)}, for instance {min(common)}"
        )


def _origin(data: object) -> tuple[object, Sequence[int]]:
    """Return the data set that a loader draws from, and which samples of it."""
    if not isinstance(data, DataLoader) or not isinstance(data.dataset, Sized):
        return None, ()
    dataset: Any = data.dataset
    sampler = data.sampler if type(data.batch_sampler) in (BatchSampler, type(None)) else None
    rows: Sequence[int]
    if isinstance(sampler, SubsetRandomSampler):
        rows = list(sampler.indices)
    elif isinstance(sampler, (SequentialSampler, RandomSampler)):
        rows = range(len(dataset))
    else:
        return None, ()  # which samples it draws, nobody can say
    while isinstance(dataset, Subset):
        indices = dataset.indices
        rows, dataset = [int(indices[row]) for row in rows], dataset.dataset
    return dataset, rows
