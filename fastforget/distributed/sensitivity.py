"""How the losses of the codes depend on sharded parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from fastforget.class_forgetting.code_batch import CodeBatch
from fastforget.class_forgetting.sensitivity import Sensitivity
from fastforget.distributed.passes import ShardedPasses

__all__ = ["measure_sharded_sensitivity"]


def measure_sharded_sensitivity(
    model: nn.Module,
    parameters: dict[str, DTensor],
    moving: Mapping[str, DTensor],
    codes: CodeBatch,
    group: dist.ProcessGroup | None,
) -> Sensitivity:
    """Run all codes forward and backward, those of each group divided among the ranks.

    Args:
        model: The sharded model.
        parameters: All of its parameters.
        moving: Those that the step is taken on.
        codes: The codes.
        group: The ranks.

    Returns:
        f_CF, f_CR and g_CF of this rank's shards.
    """
    loss = codes.loss
    ranks, rank = dist.get_world_size(group), dist.get_rank(group)

    def passes_of(rows: Sequence[int]) -> tuple[ShardedPasses, int]:
        """Return the passes of this rank's share of some codes, and how many the largest share has."""
        own_rows = rows[rank::ranks]
        inputs, labels = codes.samples(own_rows or rows[:1])
        passes = ShardedPasses(model, parameters, inputs, labels, loss, ranks, samples=len(own_rows))
        return passes, -(-len(rows) // ranks)

    def mean(sums: Mapping[str, Tensor], rows: Sequence[int]) -> dict[str, Tensor]:
        return {name: sums[name].div_(len(rows)) for name in moving}

    passes, rounds = passes_of(codes.forget_rows)
    forget = mean(passes.sum_squares(rounds), codes.forget_rows)
    gradient = mean(passes.sum_gradients(), codes.forget_rows)
    passes, rounds = passes_of(codes.remain_rows)
    remain = mean(passes.sum_squares(rounds), codes.remain_rows)
    return Sensitivity(forget, remain, gradient, codes.log_scales)
