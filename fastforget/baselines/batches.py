"""Passes over batches that several methods share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from fastforget.classifier.data_forms import Batch, LabelledData
from fastforget.classifier.inputs import Inputs, count_samples
from fastforget.classifier.labelled_batches import RepeatableBatches, sized_batches

__all__ = ["mean_over_batches", "mixed", "one_tensor", "paired"]

_Long = TypeVar("_Long")
_Short = TypeVar("_Short")


def paired(longer: Iterable[_Long], shorter: Iterable[_Short]) -> Iterator[tuple[_Long, _Short]]:
    """Yield every batch of ``longer`` beside one of ``shorter``, which is gone through again as often as needed."""
    second = iter(shorter)
    for first in longer:
        beside = next(second, None)
        if beside is None:
            second = iter(shorter)
            beside = next(second)
        yield first, beside


def mixed(forget: RepeatableBatches, remain: RepeatableBatches, share: float) -> Iterator[tuple[bool, Batch]]:
    """Yield batches of both kinds in turn; the kind with fewer batches starts again as often as needed.

    Args:
        forget: Batches to forget.
        remain: Batches of the remaining data.
        share: What share of the batches of ``remain`` is used; drawn anew.

    Yields:
        Whether a batch remains, and the batch.
    """
    everything = list(remain)
    order: list[int] = torch.randperm(len(everything), device="cpu").tolist()
    some = [everything[place] for place in order[: max(1, round(share * len(everything)))]]
    more_remain = len(some) >= len(forget)
    for longer, shorter in paired(some, forget) if more_remain else paired(forget, some):
        yield not more_remain, shorter
        yield more_remain, longer


def mean_over_batches(
    batches: LabelledData,
    name: str,
    compute: Callable[[Inputs, Tensor], dict[str, Tensor]],
    *,
    per_sample: bool,
) -> tuple[dict[str, Tensor], int]:
    """Return the mean of tensors that are computed for each batch.

    Args:
        batches: The samples, gone through once; a pair or a data set in an order drawn by PyTorch's random state.
        name: The argument that they were given as, for errors.
        compute: Returns the tensors of a batch by name.
        per_sample: Whether a batch weighs as much as it has samples; all weigh the same otherwise.

    Returns:
        The means by name, and how many samples or batches they are of.
    """
    total: dict[str, Tensor] = {}
    weight = 0
    for inputs, targets in sized_batches(batches, name, torch.default_generator):
        share = count_samples(inputs, targets) if per_sample else 1
        for key, value in compute(inputs, targets).items():
            total[key] = total.get(key, 0) + share * value
        weight += share
    return {key: value / weight for key, value in total.items()}, weight


def one_tensor(inputs: Inputs, name: str) -> Tensor:
    """Return the inputs of a batch, checked to be one floating-point tensor.

    Args:
        inputs: The inputs.
        name: The argument that they were given as.

    Returns:
        The tensor.

    Raises:
        TypeError: They are something else.
    """
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        raise TypeError(f"`{name}` must hold inputs that are one floating-point tensor")
    return inputs
