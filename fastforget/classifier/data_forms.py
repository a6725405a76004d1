"""The forms in which people have samples with their classes, and the batches that are made of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.data import Dataset, IterableDataset, default_collate

from fastforget.classifier.inputs import Inputs, count_samples, plain
from fastforget.classifier.targets import as_classes, kind_of

__all__ = ["BATCH_SIZE", "Batch", "Batches", "LabelledData", "batches_of", "whole_of"]

BATCH_SIZE = 64  # the most samples in a batch of a whole data set

Batch: TypeAlias = tuple[Inputs, Tensor]
Classes: TypeAlias = Tensor | Sequence[int] | npt.NDArray[np.integer[Any]]
Batches: TypeAlias = Iterable[tuple[Any, Tensor]]  # of a DataLoader, for instance
LabelledData: TypeAlias = Batches | Iterable[Mapping[str, Any]] | tuple[Any, Classes] | Mapping[str, Any] | Dataset[Any]

_LABELS = ("labels", "label")
_FORMS = "batches (inputs, targets), a pair of both, or a data set"


def batches_of(data: LabelledData, name: str, shuffle: torch.Generator | None = None) -> Batches:
    """Return samples as batches (inputs, targets), whatever form they come in.

    ====================================== ============================================================================
    an iterable of pairs                   its batches, for instance of a DataLoader
    an iterable of dicts, or of other      its batches; ``labels`` (or ``label``) of each are the targets, all the rest
    mappings                               are inputs, by name
    a pair (inputs, targets), or a mapping all samples: cut into batches of the same size, at most 64 samples each
    with ``labels``
    a `torch.utils.data.Dataset`           all samples, joined by PyTorch's ``default_collate`` and cut alike; each is a
                                           pair or a mapping. An IterableDataset is an iterable of batches
    a `datasets.Dataset` of Hugging Face   likewise, in its format "torch"; its columns beside the labels are the
                                           model's inputs by name, so others must be left out (`select_columns`)
    ====================================== ============================================================================

    A pair is told from two batches by its members: targets are a tensor, or whole numbers in a list or in an array of
    NumPy; a batch is a pair or a mapping.

    Args:
        data: The samples.
        name: The argument that they were given as, for errors.
        shuffle: Draws a new order of the samples for each pass over a pair or a data set; None for the order that they
            have. Of batches the order is never changed.

    Returns:
        The batches. They have a length, and can be gone through again, if the data has and can. Nothing is drawn from
        the data before a pass starts. A pass raises TypeError or ValueError at what is no batch.

    Raises:
        TypeError: The data has none of these forms, or it cannot be told which.
        ValueError: A mapping has no labels, or there are not as many targets as inputs.
    """
    whole = whole_of(data, name)
    if whole is not None:
        return _Cut(partial(_rows_of, whole), count_samples(*whole), shuffle)
    if _is_hugging_face(data):
        data = data.with_format("torch")  # type: ignore[union-attr]
        return _Cut(partial(_collated, data, name), len(data), shuffle)  # type: ignore[arg-type]
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        if not isinstance(data, Sized):
            raise TypeError(f"`{name}` must be a data set with a length, got {type(data).__name__}")
        return _Cut(partial(_collated, data, name), len(data), shuffle)
    if isinstance(data, (Tensor, str)) or not any(hasattr(type(data), name) for name in ("__iter__", "__getitem__")):
        raise TypeError(f"`{name}` must be {_FORMS}, got {kind_of(data)}")
    return _SizedPairs(data, name) if isinstance(data, Sized) else _Pairs(data, name)


def whole_of(data: object, name: str) -> Batch | None:
    """Return the inputs and targets of a pair of them, or of a mapping with labels; None for any other data.

    Args:
        data: Samples in any form.
        name: The argument that they were given as, for errors.

    Returns:
        Inputs and targets of all samples.

    Raises:
        TypeError: It cannot be told whether this is a pair (inputs, targets) or two batches.
        ValueError: A mapping has no labels.
    """
    if isinstance(data, Mapping):
        return _without_labels(data, name)
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        return None
    first, second = data[0], as_classes(data[1])
    if _may_be_batch(first) and _may_be_batch(second):
        if not isinstance(first, Mapping) and not _are_classes(first[1]) and all(map(_are_classes, second)):
            raise TypeError(
                f"`{name}` must be {_FORMS}, got two lists: join the tensors of each with torch.cat, or make pairs"
            )
        return None
    if not isinstance(second, Tensor) and _may_be_batch(first):
        return None  # a batch, and something that the pass will name
    if not _are_classes(second):
        raise TypeError(f"targets of `{name}` must be torch.int64 [N], got {kind_of(second)}")
    return plain(first), second


class _Pairs:
    """Batches of an iterable, each turned into a pair."""

    def __init__(self, source: Any, name: str) -> None:
        self._source, self._name = source, name

    def __iter__(self) -> Iterator[Batch]:
        """Start a pass over the iterable now: one that shuffles draws its order."""
        return map(partial(_pair, name=self._name), iter(self._source))


class _SizedPairs(_Pairs):
    def __len__(self) -> int:
        """Return how many batches there are."""
        return len(self._source)


class _Cut:
    """A whole data set, cut into batches that differ by at most one sample in size.

    A rest of one sample would be a batch that batch norms cannot be trained on.
    """

    def __init__(self, take: Callable[[Tensor], Batch], samples: int, shuffle: torch.Generator | None) -> None:
        self._take, self._samples, self._shuffle = take, samples, shuffle

    def __len__(self) -> int:
        """Return how many batches there are."""
        return math.ceil(self._samples / BATCH_SIZE)

    def __iter__(self) -> Iterator[Batch]:
        """Start a pass; its order is drawn now."""
        if not self._samples:
            return iter(())
        rows = torch.arange(self._samples, device="cpu")
        if self._shuffle is not None:
            rows = torch.randperm(self._samples, generator=self._shuffle, device="cpu")
        return map(self._take, rows.tensor_split(len(self)))


def _is_hugging_face(data: object) -> bool:
    """Whether this is a `datasets.Dataset`: told by what it offers, for that library need not be installed."""
    return all(hasattr(type(data), name) for name in ("with_format", "column_names", "__len__", "__getitem__"))


def _rows_of(whole: Batch, rows: Tensor) -> Batch:
    chosen: Batch = pytree.tree_map_only(Tensor, lambda leaf: leaf[rows.to(leaf.device)], whole)
    return chosen


def _collated(dataset: Any, name: str, rows: Tensor) -> Batch:
    return _pair(default_collate([dataset[row] for row in rows.tolist()]), name)


def _pair(batch: object, name: str) -> Batch:
    if isinstance(batch, Mapping):
        return _without_labels(batch, name)
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise TypeError(f"`{name}` must hold batches (inputs, targets) or mappings with `labels`, got {kind_of(batch)}")
    return plain(batch[0]), as_classes(batch[1])


def _without_labels(batch: Mapping[str, Any], name: str) -> Batch:
    """Return the inputs in a mapping, and its labels."""
    found = [key for key in _LABELS if key in batch]
    if len(found) != 1:
        raise ValueError(f"mappings in `{name}` must have either `labels` or `label`, got {list(batch)}")
    labels = as_classes(batch[found[0]])
    if not isinstance(labels, Tensor) or not labels.dim():
        raise TypeError(
            f"`{found[0]}` of `{name}` must be the classes of a batch, torch.int64 [N], got {kind_of(labels)}; "
            "a DataLoader makes batches of samples"
        )
    return {key: value for key, value in batch.items() if key != found[0]}, labels


def _may_be_batch(value: object) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, (tuple, list)) and len(value) == 2)


def _are_classes(value: object) -> bool:
    return isinstance(value, Tensor) and value.dim() == 1 and value.dtype == torch.int64
