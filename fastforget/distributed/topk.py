"""Exact global top-k over scores that are sharded over ranks and never gathered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, overload

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from fastforget import ops
from fastforget.distributed.consensus import consensus
from fastforget.distributed.score_shards import ScoreShards
from fastforget.distributed.selection import count_selected
from fastforget.distributed.sharding import from_local_like
from fastforget.functional.topk import check_not_nan, list_scores, restructure, selected_count

__all__ = ["topk_mask"]


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

    The marked elements are those that `fastforget.topk_mask` marks of the whole tensors in one process, for any number
    of ranks. Equal scores are taken in (tensor, element) order. The scores stay where they are. Three histograms of at
    most 16 KiB are reduced (six for float64), and one count per tensor and rank.

    Args:
        scores: A tensor, list or dict of DTensors, sharded over their first dimension on one dimension of the mesh and
            replicated on the others; or of plain tensors, one part per rank, in the order of the ranks. One dtype of
            float32, float64, bfloat16 and float16, without NaN. Parts may be empty.
        k: How many in all: an int in [1, number of elements], or a float share in (0, 1], rounded to at least one.
        group: The ranks, which must be those of the mesh; all by default.

    Returns:
        Bool masks in the structure of ``scores``, sharded as they are.

    Raises:
        TypeError: ``scores`` are not tensors, or ``k`` is not a number.
        ValueError: ``k`` is out of range; scores are empty, NaN or of mixed dtypes or devices; or ranks differ in more
            than the values of the scores. An error on one rank is raised on all of them.
        NotImplementedError: The scores are sharded in another way, or on a device without kernels.
    """
    with consensus(group) as statement:
        tensors = list_scores(scores)
        shards = ScoreShards.of(tensors, group)
        check_not_nan(shards.parts)
        statement.facts.update(_facts(scores, tensors, k))
        statement.notes["elements"] = shards.elements
    total = sum(note["elements"] for note in statement.all_notes)
    if not total:
        raise ValueError("`scores` must not be empty")
    selected = count_selected(shards, selected_count(k, total), group)
    if selected:
        masks = ops.select_mask(ops.select(shards.parts, selected)[0], shards.parts)
    else:
        masks = [torch.zeros_like(part, dtype=torch.bool) for part in shards.parts]
    return restructure([from_local_like(mask, score) for mask, score in zip(masks, tensors, strict=True)], scores)


def _facts(scores: Any, tensors: Sequence[Tensor], k: Any) -> dict[str, Any]:
    """Return what must be equal on all ranks; the shapes of plain parts may differ."""
    shapes = [[list(t.shape), str(t.placements)] if isinstance(t, DTensor) else None for t in tensors]
    return {
        "`k`": repr(k),
        "names of scores": list(scores) if isinstance(scores, Mapping) else len(tensors),
        "dtype of scores": str(tensors[0].dtype),
        **{f"shape of scores {number}": shape for number, shape in enumerate(shapes)},
    }
