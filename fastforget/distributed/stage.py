"""A step that is tried on the shards of a model themselves: there is no room for a copy."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fastforget import ops
from fastforget.class_forgetting.stage import Stage
from fastforget.classifier.inputs import Inputs, tensors_of
from fastforget.classifier.running import forward, logits_of
from fastforget.distributed.communication import gather
from fastforget.distributed.sharding import reshard
from fastforget.edits.edit import Edit

__all__ = ["ShardedStage", "run_divided"]


class ShardedStage(Stage):
    """A step on some elements of this rank's shards.

    Attributes:
        sharded_model: The model, which is run to see what a step does.
        group: The ranks.
    """

    _can_examine = False  # no rank has the whole of a parameter

    def __init__(
        self,
        model: nn.Module,
        shards: nn.Module,
        targets: Mapping[str, Tensor],
        indices: Tensor,
        counts: Tensor,
        sizes: list[int],
        direction: Tensor,
        batch_size: int | None,
        group: dist.ProcessGroup | None,
    ) -> None:
        """Stage a step of length 0 along ``direction`` [k] on the elements at ``indices``, see `ops.select_indices`.

        Args:
            model: The sharded model, which is run to see what a step does.
            shards: Its `local_shards`.
            targets: The shards that move, by name, in their own memory.
            indices: Which elements of these.
            counts: How many of them are in each shard.
            sizes: The same on the host.
            direction: The direction on them.
            batch_size: How many samples all ranks together run at a time; None for all.
            group: The ranks.
        """
        super().__init__(shards, dict(targets), batch_size)
        self.sharded_model: nn.Module = model
        self.group: dist.ProcessGroup | None = group
        self._targets, self._indices, self._counts, self._direction = list(targets.values()), indices, counts, direction
        self._sizes = sizes
        parts = zip(self._targets, indices.split(sizes), strict=True)
        self._new = self._old = torch.cat([target.view(-1)[at] for target, at in parts])

    def put_back(self) -> None:
        """Write the values from before the first step."""
        for name in list(self._overlays):
            self.overlay(name, None)
        self._write(self._old)

    def original(self, name: str) -> Tensor:
        """Return a shard as it was before any step: its own memory holds what became of it."""
        values = self._overlays[name][0].clone() if name in self._overlays else self.parameters[name].clone()
        parts = zip(self.parameters, self._indices.split(self._sizes), self._old.split(self._sizes), strict=True)
        for stepped, indices, old in parts:
            if stepped == name:
                values.view(-1)[indices.long()] = old
        return values

    def run(self, inputs: Inputs) -> Tensor:
        """Run the samples, divided among the ranks; return the logits."""
        self._forget_copies()
        return run_divided(self.sharded_model, inputs, self.group)

    def place(self, length: float) -> None:
        """Write the shards: summed in the type of the direction, rounded once."""
        self._write((self._old.to(self._direction.dtype) + length * self._direction).to(self._old.dtype))

    def _write(self, values: Tensor) -> None:
        self._new = values
        ops.perturb_write(self._targets, self._indices, self._counts, values)
        self._forget_copies()

    def _forget_copies(self) -> None:
        """Free what was gathered or cast of the shards: it does not see what was written to them since."""
        reshard(self.sharded_model)
        torch.clear_autocast_cache()

    def changes(self) -> dict[str, Edit]:
        """Return the elements of this rank with their values before and after."""
        parts = (tensor.split(self._sizes) for tensor in (self._indices, self._old, self._new))
        return {
            name: Edit.selected(tuple(target.shape), indices, old.clone(), new.clone())
            for (name, target), indices, old, new in zip(self.parameters.items(), *parts, strict=True)
            if len(new)
        }


def run_divided(model: nn.Module, inputs: Inputs, group: dist.ProcessGroup | None) -> Tensor:
    """Run each rank's share of some samples; return the logits of all of them, the same bits on every rank.

    Args:
        model: The sharded model.
        inputs: The samples, leaves [N, ...], the same on all ranks.
        group: The ranks.

    Returns:
        The logits, [N, C].
    """
    ranks, rank = dist.get_world_size(group), dist.get_rank(group)
    samples = len(tensors_of(inputs)[0])
    share = -(-samples // ranks)
    # Every rank must run as many samples: one that has none left repeats the last.
    rows = torch.arange(rank * share, (rank + 1) * share, device=tensors_of(inputs)[0].device).clamp(max=samples - 1)
    with torch.no_grad():
        own_inputs = pytree.tree_map_only(Tensor, lambda leaf: leaf.index_select(0, rows), inputs)
        own_logits = logits_of(forward(model, own_inputs))
    parts = gather(own_logits.reshape(-1), [own_logits.numel()] * ranks, group)
    return torch.cat(parts).view(ranks * share, -1)[:samples]
