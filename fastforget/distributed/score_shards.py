"""This rank's parts of scores that are sharded over ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from fastforget.classifier.devices import check_device
from fastforget.distributed.communication import check_backend
from fastforget.distributed.sharding import Sharding, to_local
from fastforget.functional.topk import check_comparable

__all__ = ["ScoreShards"]


@dataclass(frozen=True)
class ScoreShards:
    """This rank's part of each tensor of scores.

    Attributes:
        parts: The parts, contiguous.
        numbers: The number of each part among those of its tensor, in row order.
        first_holder: Whether this rank is the first one that holds the part, for each part.
    """

    parts: list[Tensor]
    numbers: list[int]
    first_holder: list[bool]

    @classmethod
    def of(cls, scores: Sequence[Tensor], group: dist.ProcessGroup | None) -> ScoreShards:
        """Take this rank's parts of scores, after all checks that need not read their values.

        Args:
            scores: DTensors, or plain tensors: one part per rank, in the order of the ranks.
            group: The ranks.

        Returns:
            The parts.

        Raises:
            ValueError: Scores are not floating point, of mixed dtypes or devices, or on a mesh of other ranks.
            NotImplementedError: Scores are sharded in another way, or on a device without kernels.
        """
        parts = [to_local(score) for score in scores]
        for score, part in zip(scores, parts, strict=True):
            check_comparable(score, scores[0])
            check_device("`scores`", part)
            check_backend("`scores`", part, group)
        return cls.like(parts, scores, group)

    @classmethod
    def like(cls, parts: Sequence[Tensor], others: Sequence[Tensor], group: dist.ProcessGroup | None) -> ScoreShards:
        """Take this rank's parts of scores that are sharded as other tensors are.

        Args:
            parts: This rank's parts.
            others: The other tensors: DTensors, or plain ones where every rank has one part, in the order of the ranks.
            group: The ranks.

        Returns:
            The parts.
        """
        numbers, first_holder = [], []
        for other in others:
            sharding = Sharding.of("`scores`", other, group) if isinstance(other, DTensor) else None
            numbers.append(sharding.part if sharding else dist.get_rank(group))
            first_holder.append(sharding.first_holder if sharding else True)
        return cls([part.contiguous() for part in parts], numbers, first_holder)

    @property
    def elements(self) -> int:
        """The number of elements that no rank before this one holds."""
        return sum(part.numel() for part, first in zip(self.parts, self.first_holder, strict=True) if first)
