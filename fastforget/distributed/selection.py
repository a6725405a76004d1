"""Exact global top-k over scores that are spread over ranks and never gathered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from fastforget import ops
from fastforget.distributed.agreement import agreement, check_backend
from fastforget.distributed.layout import Layout, local, spread
from fastforget.model import check_device
from fastforget.selection import check_alike, count

__all__ = ["Shards", "selected_here", "topk_mask"]

_DIGIT = 11  # bits that one histogram decides


@overload
def topk_mask(scores: Tensor, k: float, group: dist.ProcessGroup | None = None) -> Tensor: ...


@overload
def topk_mask(scores: Sequence[Tensor], k: float, group: dist.ProcessGroup | None = None) -> list[Tensor]: ...


@overload
def topk_mask(scores: Mapping[str, Tensor], k: float, group: dist.ProcessGroup | None = None) -> dict[str, Tensor]: ...


def topk_mask(
    scores: Tensor | Sequence[Tensor] | Mapping[str, Tensor], k: float, group: dist.ProcessGroup | None = None
) -> Tensor | list[Tensor] | dict[str, Tensor]:
    """Mark the k largest scores over all tensors and ranks together.

    The same elements as `fastforget.topk_mask` marks of the whole tensors in one process, for any number of ranks:
    equal scores are taken in (tensor, element) order. The scores stay where they are: three histograms of at most
    16 KiB are reduced (six for float64), and one count per tensor and rank.

    Args:
        scores: A tensor, list or dict of DTensors, sharded over their first dimension on one dimension of the mesh and
            replicated on the others; or of plain tensors, this rank's parts of tensors that are spread in the order of
            the ranks. One dtype of float32, float64, bfloat16 and float16, without NaN. Parts may be empty.
        k: How many in all: an int in [1, number of elements], or a float share in (0, 1], rounded to at least one.
        group: The ranks, those of the mesh; all by default.

    Returns:
        Bool masks in the structure of ``scores``, spread as they are.

    Raises:
        TypeError: ``scores`` are not tensors, or ``k`` is not a number.
        ValueError: ``k`` is out of range; scores are empty, NaN, of mixed dtypes or devices, or differ between ranks in
            more than their values. An error on one rank is raised on all of them.
        NotImplementedError: The scores are spread in another way, or on a device without kernels.
    """
    with agreement(group) as here:
        listed = _listed(scores)
        shards = Shards.of(listed, group)
        shards.check_values()
        here.facts.update(_facts(scores, listed, k))
        here.notes["elements"] = sum(
            part.numel() for part, first in zip(shards.parts, shards.first, strict=True) if first
        )
    total = sum(note["elements"] for note in here.everywhere)
    if not total:
        raise ValueError("`scores` must not be empty")
    mine = selected_here(shards, count(k, total), group)
    if mine:
        masks = ops.select_mask(ops.select(shards.parts, mine)[0], shards.parts)
    else:
        masks = [torch.zeros_like(part, dtype=torch.bool) for part in shards.parts]
    masks = [_spread(mask, score) for mask, score in zip(masks, listed, strict=True)]
    if isinstance(scores, Tensor):
        return masks[0]
    return dict(zip(scores, masks, strict=True)) if isinstance(scores, Mapping) else masks


@dataclass(frozen=True)
class Shards:
    """This rank's parts of scores.

    Attributes:
        parts: Contiguous, one per tensor.
        places: Which part of its tensor each is.
        first: Whether this is the first rank that has it.
    """

    parts: list[Tensor]
    places: list[int]
    first: list[bool]

    @classmethod
    def of(cls, scores: Sequence[Tensor], group: dist.ProcessGroup | None) -> Shards:
        """Find the parts, and check what can be told of them without a look at their values.

        Args:
            scores: DTensors or plain parts.
            group: The ranks.

        Returns:
            The parts of this rank.

        Raises:
            ValueError: They are not floating point, of mixed dtypes or devices, or on a mesh of other ranks.
            NotImplementedError: They are spread in another way, or on a device without kernels.
        """
        for score in scores:
            check_alike(score, scores[0])
            check_device("`scores`", local(score))
            check_backend("`scores`", local(score), group)
        return cls.like([local(score) for score in scores], scores, group)

    @classmethod
    def like(cls, parts: Sequence[Tensor], others: Sequence[Tensor], group: dist.ProcessGroup | None) -> Shards:
        """Return parts that are spread as other tensors are.

        Args:
            parts: Of this rank.
            others: DTensors, or plain tensors where the parts are in the order of the ranks.
            group: The ranks.

        Returns:
            The parts with their places.
        """
        layouts = [Layout.of("`scores`", other, group) if isinstance(other, DTensor) else None for other in others]
        rank = dist.get_rank(group)
        places = [layout.place if layout else rank for layout in layouts]
        return cls(
            [part.contiguous() for part in parts], places, [layout is None or layout.first for layout in layouts]
        )

    def check_values(self) -> None:
        """Raise ValueError if a score is NaN."""
        for part in self.parts:
            if part.numel() and bool(part.amax().isnan()):  # the largest of some values and NaN is NaN
                raise ValueError(f"`scores` must not be NaN, got NaN in a tensor of shape {tuple(part.shape)}")


def selected_here(shards: Shards, k: int, group: dist.ProcessGroup | None) -> int:
    """Return how many of the k largest are on this rank: as many as are the largest of its own.

    Scores are compared as unsigned keys that sort like them. The key of the k-th largest is found digit by digit from
    the highest, each from the sum of all ranks' histograms. Scores beyond it are selected, and of those that equal it
    the first in (tensor, element) order, which the counts of all parts tell. On a rank too these are the first ones,
    so that `ops.select` of its own parts marks the right ones.

    Args:
        shards: This rank's parts.
        k: How many in all, in [1, number of elements].
        group: The ranks.

    Returns:
        The number.
    """
    like = shards.parts[0]
    first = torch.tensor(shards.first, device=like.device)
    prefix, left, rank = 0, 64 if like.dtype == torch.float64 else 32, k
    above = 0
    counts = torch.empty(0)
    digit = 0
    while left > 0:
        shift = max(left - _DIGIT, 0)
        counts = ops.select_histogram(shards.parts, prefix, left, shift)
        total = counts[first].sum(0)
        dist.all_reduce(total, group=group)
        higher = (total.flip(0).cumsum(0).flip(0) - total).cpu()  # of keys with a larger digit
        digit = int((higher < rank).nonzero()[0])
        above += int(counts[:, digit + 1 :].sum())
        rank -= int(higher[digit])
        prefix, left = prefix << (left - shift) | digit, shift
    return above + _ties_here(shards, counts[:, digit], rank, group)


def _ties_here(shards: Shards, ties: Tensor, wanted: int, group: dist.ProcessGroup | None) -> int:
    """How many of this rank's scores equal to the threshold are among the first of all, by tensor and part."""
    table = ties.new_zeros(len(ties), dist.get_world_size(group))
    row, place, first = (
        torch.tensor(values, device=ties.device) for values in (range(len(ties)), shards.places, shards.first)
    )
    table[row[first], place[first]] = ties[first]
    dist.all_reduce(table, group=group)
    before = (table.view(-1).cumsum(0) - table.view(-1)).view(table.shape)
    return int((wanted - before).clamp(min=0).minimum(table)[row, place].sum())


def _listed(scores: Any) -> list[Tensor]:
    if isinstance(scores, Tensor):
        return [scores]
    if not isinstance(scores, (Mapping, list, tuple)):
        raise TypeError(f"`scores` must be a tensor, list or dict of tensors, got {type(scores).__name__}")
    listed = list(scores.values()) if isinstance(scores, Mapping) else list(scores)
    if not listed:
        raise ValueError("`scores` must not be empty")
    for score in listed:
        if not isinstance(score, Tensor):
            raise TypeError(f"`scores` must hold tensors only, got {type(score).__name__}")
    return listed


def _facts(scores: Any, listed: Sequence[Tensor], k: Any) -> dict[str, Any]:
    """What all ranks must give alike; of plain parts the shapes need not."""
    spread = [[list(score.shape), str(score.placements)] if isinstance(score, DTensor) else None for score in listed]
    return {
        "`k`": repr(k),
        "names of scores": list(scores) if isinstance(scores, Mapping) else len(listed),
        "dtype of scores": str(listed[0].dtype),
        **{f"shape of scores {at}": of for at, of in enumerate(spread)},
    }


def _spread(mask: Tensor, like: Tensor) -> Tensor:
    if isinstance(like, DTensor):
        return spread(mask, like.device_mesh, like.placements, like.shape)
    return mask.view(like.shape)
