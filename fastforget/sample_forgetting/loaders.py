"""The batches that `learn_to_unlearn` is given: checked, and gone through again and again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
)

from fastforget.classifier.data_forms import Batch, LabelledData, whole_of
from fastforget.classifier.inputs import Inputs
from fastforget.classifier.labelled_batches import RepeatableBatches, check_classes, check_logits, labelled_batches
from fastforget.classifier.running import forward, logits_of

__all__ = ["EndlessBatches", "ForgetBatch", "UnlearningData"]


@dataclass(frozen=True, eq=False)
class ForgetBatch:
    """Samples to forget.

    Attributes:
        inputs: As the model's forward takes them.
        targets: Their classes, int64 [N].
        goals: The predictions that the model is to learn for them, probabilities [N, C]; None where they are unknown.
        twins: The model's logits for similar unseen samples, one for each, [N, C]; None where there are none.
    """

    inputs: Inputs
    targets: Tensor
    goals: Tensor | None = None
    twins: Tensor | None = None

    def select(self, rows: Tensor) -> ForgetBatch:
        """Return some of the samples, by their indices."""
        parts = (self.inputs, self.targets, self.goals, self.twins)
        return ForgetBatch(*pytree.tree_map_only(Tensor, lambda tensor: tensor[rows], parts))


@dataclass(frozen=True, eq=False)
class UnlearningData:
    """The samples that `learn_to_unlearn` is given, in any form that `batches_of` takes.

    Attributes:
        forget: Samples to forget.
        remain: Samples of the remaining training data; none of those to forget.
        unseen: Samples that the model was not trained on, if there are any.
    """

    forget: LabelledData
    remain: LabelledData
    unseen: LabelledData | None

    def __post_init__(self) -> None:
        """Check that no sample is to be forgotten and to remain, as far as loaders show their samples.

        Raises:
            ValueError: The loaders are the same, or draw from parts of a data set that overlap.
        """
        if self.forget is self.remain:
            raise ValueError("`forget` and `remain` must not be the same object")
        (one, rows), (other, other_rows) = _origin(self.forget, "forget"), _origin(self.remain, "remain")
        if one is None or one is not other:
            return
        common = set(rows) & set(other_rows)
        if common:
            raise ValueError(
                f"`forget` and `remain` must have no samples in common, got {len(common)}, for instance {min(common)}"
            )


class EndlessBatches:
    """Batches that start again when they end; those of the first pass are checked before they are handed out."""

    def __init__(self, model: nn.Module, batches: LabelledData, name: str) -> None:
        """Keep batches that come only once.

        Args:
            model: The eager module that they are for.
            batches: The samples, in any form that `batches_of` takes.
            name: The argument that they were given as, for errors.
        """
        self._model = model
        self._batches = RepeatableBatches(batches, name)
        self._endless = self._go_through()

    def take(self, count: int) -> list[Batch]:
        """Return the next batches.

        Args:
            count: How many.

        Returns:
            The batches.

        Raises:
            TypeError: Inputs or targets have the wrong type.
            ValueError: There is none, or targets are no classes of the model.
        """
        return [next(self._endless) for _ in range(count)]

    def one_pass(self) -> Iterator[Batch]:
        """Go through the batches in a pass of its own, checked."""
        return self._checked()

    def _go_through(self) -> Iterator[Batch]:
        yield from self._checked()
        while True:
            yield from self._batches

    def _checked(self) -> Iterator[Batch]:
        """Go through the batches once; the model is run on the first one, for the number of classes."""
        classes, name = None, self._batches.name
        for inputs, targets in labelled_batches(self._batches, name):
            if classes is None:
                with torch.no_grad():
                    classes = check_logits(logits_of(forward(self._model, inputs)), name)
            check_classes(targets, classes, name)
            yield inputs, targets


def _origin(samples: object, name: str) -> tuple[object, Sequence[int]]:
    """Return the data set that samples are drawn from and their indices in it; None where nobody can say."""
    whole = whole_of(samples, name)
    if whole is not None:
        return whole[1], range(len(whole[1]))
    dataset: Any = samples.dataset if isinstance(samples, DataLoader) else samples
    if not isinstance(dataset, Dataset) or not hasattr(dataset, "__len__"):
        return None, ()
    rows: Sequence[int] = range(len(dataset))
    if isinstance(samples, DataLoader):
        sampler = samples.sampler if type(samples.batch_sampler) in (BatchSampler, type(None)) else None
        if isinstance(sampler, SubsetRandomSampler):
            rows = list(sampler.indices)
        elif not isinstance(sampler, (SequentialSampler, RandomSampler)):
            return None, ()
    while isinstance(dataset, Subset):
        indices = dataset.indices
        rows, dataset = [int(indices[row]) for row in rows], dataset.dataset
    return dataset, rows
