"""Radix selection over scores of all ranks: only histograms and counts are sent."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from fastforget import ops
from fastforget.distributed.score_shards import ScoreShards

__all__ = ["count_selected"]

_DIGIT_BITS = 11  # bits of the keys that one histogram decides


def count_selected(shards: ScoreShards, k: int, group: dist.ProcessGroup | None) -> int:
    """Count how many of the k largest scores of all ranks this rank holds; they are the largest ones of its own.

    Scores are compared as unsigned keys that sort like them. The key of the k-th largest score is found digit by digit
    from the highest, each from the sum of all ranks' histograms. Scores with a larger key are selected. Scores with
    this key are ties: the first ones in (tensor, element) order are selected. On each rank the selected ties are the
    first of its own too. So `ops.select` with this count marks the right elements of its parts.

    Args:
        shards: This rank's parts.
        k: How many in all, in [1, number of elements].
        group: The ranks.

    Returns:
        The number.
    """
    like = shards.parts[0]
    first_holder = torch.tensor(shards.first_holder, device=like.device)
    prefix, bits_left = 0, 64 if like.dtype == torch.float64 else 32
    selected, wanted = 0, k  # scores selected on this rank; scores still to select on all ranks
    digit, counts = 0, torch.empty(0)
    while bits_left > 0:
        shift = max(bits_left - _DIGIT_BITS, 0)
        counts = ops.select_histogram(shards.parts, prefix, bits_left, shift)
        total = counts[first_holder].sum(0)
        dist.all_reduce(total, group=group)
        larger = (total.flip(0).cumsum(0).flip(0) - total).cpu()  # how many keys have a larger digit
        digit = int((larger < wanted).nonzero()[0])
        selected += int(counts[:, digit + 1 :].sum())
        wanted -= int(larger[digit])
        prefix, bits_left = prefix << (bits_left - shift) | digit, shift
    return selected + _count_ties(shards, counts[:, digit], wanted, group)


def _count_ties(shards: ScoreShards, ties: Tensor, wanted: int, group: dist.ProcessGroup | None) -> int:
    """Count the ties of this rank among the first ``wanted`` of all, in the order of tensors and parts."""
    table = ties.new_zeros(len(ties), dist.get_world_size(group))
    tensor, number, first_holder = (
        torch.tensor(values, device=ties.device) for values in (range(len(ties)), shards.numbers, shards.first_holder)
    )
    table[tensor[first_holder], number[first_holder]] = ties[first_holder]
    dist.all_reduce(table, group=group)
    before = (table.view(-1).cumsum(0) - table.view(-1)).view(table.shape)
    return int((wanted - before).clamp(min=0).minimum(table)[tensor, number].sum())
