"""Where the samples to forget in each step come from: drawn from matched samples, or the loader's batches in order."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import nn

from fastforget.sample_forgetting.excluded import DrawnSamples, ExcludedClasses
from fastforget.sample_forgetting.loaders import EndlessBatches, ForgetBatch, UnlearningData
from fastforget.sample_forgetting.twins import MatchedSamples

__all__ = ["DrawnSource", "ForgetSource", "LoaderSource", "choose_source"]


class LoaderSource:
    """The batches of a loader in its order, without goals.

    Attributes:
        has_goals: False.
    """

    has_goals = False

    def __init__(self, batches: EndlessBatches) -> None:
        self._batches = batches

    def take(self, count: int) -> list[ForgetBatch]:
        """Return the next batches."""
        return [ForgetBatch(*batch) for batch in self._batches.take(count)]


class DrawnSource:
    """Batches drawn from matched samples, by a random state of their own.

    Attributes:
        has_goals: True.
    """

    has_goals = True

    def __init__(self, matched: MatchedSamples, size: int, seed: int) -> None:
        self._matched, self._size = matched, size
        self._generator = torch.Generator().manual_seed(seed)

    def take(self, count: int) -> list[ForgetBatch]:
        """Return the next batches."""
        return [self._matched.draw(self._size, self._generator) for _ in range(count)]


ForgetSource: TypeAlias = LoaderSource | DrawnSource


def choose_source(
    model: nn.Module,
    data: UnlearningData,
    forget: EndlessBatches,
    remain: EndlessBatches,
    *,
    goals: bool | None,
    seed: int,
) -> tuple[ForgetSource, ExcludedClasses | None]:
    """Choose where samples to forget come from.

    Args:
        model: The eager module, in eval mode.
        data: Batches on its device.
        forget: Those to forget.
        remain: Those of the remaining data; gone through once for its classes, unless ``goals`` is False.
        goals: Whether samples must have goals. None gives them goals where these can be had: with unseen samples, or
            where no class to forget remains.
        seed: Of the draws.

    Returns:
        The source; the classes of which nothing remains, or None where ``goals`` is False and nobody looked.

    Raises:
        TypeError: A batch has the wrong type.
        ValueError: There is no batch, targets are no classes, or goals cannot be had.
    """
    if goals is False:
        return LoaderSource(forget), None
    batches = list(forget.one_pass())
    others = DrawnSamples.draw(remain.one_pass(), seed)
    excluded = ExcludedClasses.find(batches, others, seed)
    gone = {label for _, targets in batches for label in targets.tolist()}
    if goals is None and data.unseen is None and gone & others.classes:
        return LoaderSource(forget), excluded
    matched = MatchedSamples.match(model, batches, others.classes, data.unseen)
    return DrawnSource(matched, size=len(batches[0][1]), seed=seed), excluded
