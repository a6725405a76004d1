"""Whole tensors sharded over the ranks as `fully_shard` shards them."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard


def mesh_of(*sizes: int) -> DeviceMesh:
    """Make a mesh over all ranks: of one dimension, or of the given ones."""
    return init_device_mesh("cpu", sizes or (dist.get_world_size(),))


def part(whole: Tensor, mesh: DeviceMesh, placements: Sequence[Placement]) -> Tensor:
    """Return what this rank holds."""
    for dim, placement in enumerate(placements):
        if isinstance(placement, Shard):
            chunks = whole.chunk(mesh.size(dim), placement.dim)
            number = mesh.get_local_rank(dim)
            whole = chunks[number] if number < len(chunks) else whole.narrow(placement.dim, 0, 0)
    return whole.contiguous()


def distribute(whole: Tensor, mesh: DeviceMesh, placements: Sequence[Placement]) -> DTensor:
    """Return the DTensor, without communication."""
    stride = torch.empty(whole.shape, device="meta").stride()
    own = part(whole, mesh, placements).clone()
    return DTensor.from_local(own, mesh, placements, run_check=False, shape=whole.shape, stride=stride)


def shard_rows(whole: Tensor, mesh: DeviceMesh) -> DTensor:
    """Shard over rows; replicate a scalar, which has none."""
    return distribute(whole, mesh, [Shard(0) if whole.dim() else Replicate()])
