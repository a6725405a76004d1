"""Whole tensors spread over the ranks as `fully_shard` does it."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard


def mesh_of(*sizes: int) -> DeviceMesh:
    """A mesh over all ranks: one dimension, or the given ones."""
    return init_device_mesh("cpu", sizes or (dist.get_world_size(),))


def part(whole: Tensor, mesh: DeviceMesh, placements: Sequence[Placement]) -> Tensor:
    """What this rank holds."""
    for at, placement in enumerate(placements):
        if isinstance(placement, Shard):
            chunks = whole.chunk(mesh.size(at), placement.dim)
            here = mesh.get_local_rank(at)
            whole = chunks[here] if here < len(chunks) else whole.narrow(placement.dim, 0, 0)
    return whole.contiguous()


def spread(whole: Tensor, mesh: DeviceMesh, placements: Sequence[Placement]) -> DTensor:
    stride = torch.empty(whole.shape, device="meta").stride()
    mine = part(whole, mesh, placements).clone()
    return DTensor.from_local(mine, mesh, placements, run_check=False, shape=whole.shape, stride=stride)


def sharded(whole: Tensor, mesh: DeviceMesh) -> DTensor:
    """Over rows; without any where there are none."""
    return spread(whole, mesh, [Shard(0) if whole.dim() else Replicate()])
