"""How a tensor is sharded over ranks: which part this rank holds, and which other ranks hold the same part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Placement, Shard

from fastforget.classifier.compilation import eager

__all__ = ["Sharding", "from_local", "from_local_like", "local_shards", "reshard", "to_local"]


@dataclass(frozen=True)
class Sharding:
    """The parts of one tensor, cut along its first dimension.

    Attributes:
        part: The number of the part that this rank holds.
        first_holder: Whether this rank is the first one that holds the part.
        starts: The first row of each rank's part, in the order of the group.
        sizes: The number of rows of each rank's part.
    """

    part: int
    first_holder: bool
    starts: tuple[int, ...]
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, name: str, tensor: DTensor, group: dist.ProcessGroup | None) -> Sharding:
        """Read the sharding of a tensor: over rows on one dimension of its mesh, replicated on the others.

        Args:
            name: The tensor's name in an error.
            tensor: Sharded as `fully_shard` shards parameters.
            group: The ranks, which must be those of the mesh.

        Returns:
            The sharding.

        Raises:
            ValueError: The mesh has other ranks.
            NotImplementedError: The tensor is sharded in another way.
        """
        mesh = tensor.device_mesh
        ranks = dist.get_process_group_ranks(group)
        if sorted(mesh.mesh.flatten().tolist()) != sorted(ranks):
            raise ValueError(
                f"{name} must be on a mesh of the group's ranks {ranks}, got {mesh.mesh.flatten().tolist()}"
            )
        # `type`, not isinstance: subclasses of Shard order rows in another way
        shard_dims = [dim for dim, placement in enumerate(tensor.placements) if type(placement) is Shard]
        others = [placement for dim, placement in enumerate(tensor.placements) if dim not in shard_dims]
        if len(shard_dims) > 1 or not all(placement.is_replicate() for placement in others):
            raise NotImplementedError(_expected_sharding(name, tensor))
        rows = tensor.shape[0] if tensor.dim() else 1
        if not shard_dims:
            first_holder = not any(mesh.get_coordinate() or ())
            return cls(0, first_holder, (0,) * len(ranks), (rows,) * len(ranks))
        (shard_dim,) = shard_dims
        if tensor.placements[shard_dim] != Shard(0):
            raise NotImplementedError(_expected_sharding(name, tensor))
        coordinates = [tuple((mesh.mesh == rank).nonzero()[0].tolist()) for rank in ranks]
        parts = [coordinate[shard_dim] for coordinate in coordinates]
        full = -(-rows // mesh.size(shard_dim))  # rows of a full part, as torch.chunk cuts
        starts = tuple(min(full * part, rows) for part in parts)
        ends = tuple(min(full * (part + 1), rows) for part in parts)
        rank = dist.get_rank(group)
        first_holder = not any(position for dim, position in enumerate(coordinates[rank]) if dim != shard_dim)
        return cls(parts[rank], first_holder, starts, tuple(e - s for s, e in zip(starts, ends, strict=True)))


def to_local(tensor: Tensor) -> Tensor:
    """Return this rank's part of a tensor, in the tensor's memory; a plain tensor is its own part."""
    return tensor.to_local().detach() if isinstance(tensor, DTensor) else tensor.detach()


def from_local(part: Tensor, mesh: DeviceMesh, placements: Sequence[Placement], shape: torch.Size) -> Tensor:
    """Return a DTensor that holds a part as this rank's one, without a copy.

    Args:
        part: This rank's part, contiguous.
        mesh: The ranks.
        placements: How the tensor is sharded, for each dimension of the mesh.
        shape: The shape of the whole tensor.

    Returns:
        The DTensor.
    """
    strides = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(part, mesh, placements, run_check=False, shape=shape, stride=strides)


def from_local_like(part: Tensor, other: Tensor) -> Tensor:
    """Return a tensor of the same shape and sharding as another one, from this rank's part; see `from_local`."""
    if isinstance(other, DTensor):
        return from_local(part, other.device_mesh, other.placements, other.shape)
    return part.view(other.shape)


def local_shards(model: nn.Module) -> nn.Module:
    """Return a module of this rank's parts of a model's parameters, under the same names and in the same memory.

    It answers questions about this rank alone: `fastforget.fingerprint` of it, for instance, needs no communication.

    Args:
        model: A model with sharded parameters, for instance by `fully_shard`. Parameters still gathered from a forward
            are sharded again first.

    Returns:
        The module, which cannot be called. It holds parameters that are not sharded whole.

    Example:
        >>> import torch
        >>> shards = local_shards(torch.nn.Linear(3, 2))
        >>> [name for name, _ in shards.named_parameters()]
        ['weight', 'bias']
    """
    model = eager(model)
    reshard(model)
    shards = nn.Module()
    for name, parameter in model.named_parameters():
        owner, leaf = _add_path(shards, name)
        owner.register_parameter(leaf, nn.Parameter(to_local(parameter), requires_grad=False))
    for name, buffer in model.named_buffers():
        owner, leaf = _add_path(shards, name)
        owner.register_buffer(leaf, to_local(buffer))
    return shards


def reshard(model: nn.Module) -> None:
    """Free the parameters that `fully_shard` gathered: the next forward gathers them again from the shards."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def _add_path(root: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Add the modules on a path that are missing; return the last one, and the last part of the name."""
    *path, leaf = name.split(".")
    for part in path:
        if part not in dict(root.named_children()):
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    return root, leaf


def _expected_sharding(name: str, tensor: DTensor) -> str:
    return (
        f"{name} must be sharded over its first dimension on one dimension of the mesh, and replicated on the others, "
        f"got {tensor.placements}"
    )
