"""How tensors are spread over ranks: which part of each is here, and which ranks hold the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Placement, Shard

from fastforget.model import eager

__all__ = ["Layout", "local", "local_shards", "reshard", "spread"]


@dataclass(frozen=True)
class Layout:
    """Where the parts of one tensor are.

    Attributes:
        place: Which of the parts this rank has, counted along the first dimension.
        first: Whether this is the first of the ranks that have this part.
        starts: The first row of the part of each rank of the group.
        rows: The number of rows of each.
    """

    place: int
    first: bool
    starts: tuple[int, ...]
    rows: tuple[int, ...]

    @classmethod
    def of(cls, name: str, tensor: DTensor, group: dist.ProcessGroup | None) -> Layout:
        """Read the layout of a tensor sharded over rows on one dimension of its mesh and replicated on the others.

        Args:
            name: What the tensor is called in an error.
            tensor: As `fully_shard` makes parameters.
            group: The ranks, which must be those of the mesh.

        Returns:
            The layout.

        Raises:
            ValueError: The mesh has other ranks.
            NotImplementedError: The tensor is spread in another way.
        """
        mesh = tensor.device_mesh
        ranks = dist.get_process_group_ranks(group)
        if sorted(mesh.mesh.flatten().tolist()) != sorted(ranks):
            raise ValueError(
                f"{name} must be on a mesh of the group's ranks {ranks}, got {mesh.mesh.flatten().tolist()}"
            )
        # not isinstance: subclasses of Shard order rows in another way
        sharded = [at for at, placement in enumerate(tensor.placements) if type(placement) is Shard]
        others = [placement for at, placement in enumerate(tensor.placements) if at not in sharded]
        if len(sharded) > 1 or not all(placement.is_replicate() for placement in others):
            raise NotImplementedError(_unknown(name, tensor))
        total = tensor.shape[0] if tensor.dim() else 1
        if not sharded:
            here = mesh.get_coordinate() or ()
            return cls(0, not any(here), (0,) * len(ranks), (total,) * len(ranks))
        (along,) = sharded
        if tensor.placements[along] != Shard(0):
            raise NotImplementedError(_unknown(name, tensor))
        places = [tuple((mesh.mesh == rank).nonzero()[0].tolist()) for rank in ranks]
        step = -(-total // mesh.size(along))  # as torch.chunk cuts
        ends = [min(step * (place[along] + 1), total) for place in places]
        starts = [min(step * place[along], total) for place in places]
        mine = places[dist.get_rank(group)]
        first = not any(at for dim, at in enumerate(mine) if dim != along)
        rows = tuple(end - start for start, end in zip(starts, ends, strict=True))
        return cls(mine[along], first, tuple(starts), rows)


def local(tensor: Tensor) -> Tensor:
    """Return the part of a tensor that is on this rank, in its own memory; a plain tensor as it is."""
    return tensor.to_local().detach() if isinstance(tensor, DTensor) else tensor.detach()


def spread(part: Tensor, mesh: DeviceMesh, placements: Sequence[Placement], shape: torch.Size) -> Tensor:
    """Return a DTensor, given the part of it that is on this rank.

    Args:
        part: Contiguous.
        mesh: The ranks.
        placements: How it is spread over them.
        shape: Of the whole.

    Returns:
        The tensor, which holds the part itself.
    """
    strides = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(part, mesh, placements, run_check=False, shape=shape, stride=strides)


def local_shards(model: nn.Module) -> nn.Module:
    """Return a module that holds this rank's parts of a model's parameters, under the same names and in their memory.

    What needs no communication can be asked of it: `fastforget.fingerprint`, for instance, names what this rank holds.

    Args:
        model: A model whose parameters are sharded, by `fully_shard` for instance; where they are gathered, because it
            just ran, they are put back first.

    Returns:
        The module, which cannot be called; of parameters that are not sharded it holds the whole.

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
        path, leaf = _owner(shards, name)
        path.register_parameter(leaf, nn.Parameter(local(parameter), requires_grad=False))
    for name, buffer in model.named_buffers():
        path, leaf = _owner(shards, name)
        path.register_buffer(leaf, local(buffer))
    return shards


def reshard(model: nn.Module) -> None:
    """Let go of what `fully_shard` gathered: the parameters are the shards then, and the next forward sees them."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def _owner(root: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module on a path below, made where it is not there yet, and the last part of the name."""
    *path, leaf = name.split(".")
    for part in path:
        if part not in dict(root.named_children()):
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    return root, leaf


def _unknown(name: str, tensor: DTensor) -> str:
    return (
        f"{name} must be sharded over its first dimension on one dimension of the mesh, and replicated on the others, "
        f"got {tensor.placements}"
    )
