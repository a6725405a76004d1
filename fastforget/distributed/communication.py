"""Exchange of tensors and plain data between the ranks of a group."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["check_backend", "gather", "gather_json", "reduce_scatter_in_order", "to_json"]


def check_backend(name: str, tensor: Tensor, group: dist.ProcessGroup | None) -> None:
    """Raise ValueError if a group cannot send tensors from the device of this one.

    Args:
        name: The tensor's name in the error.
        tensor: The tensor.
        group: The ranks.

    Raises:
        ValueError: The group cannot.
    """
    config = dist.get_backend_config(group)
    if f"{tensor.device.type}:" not in config:
        raise ValueError(f"{name} must be on a device that the process group serves, {config}, got {tensor.device}")


def gather(tensor: Tensor, sizes: Sequence[int], group: dist.ProcessGroup | None) -> list[Tensor]:
    """Gather the 1-D tensors of all ranks on every rank.

    Args:
        tensor: This rank's tensor.
        sizes: The number of elements of each rank's tensor.
        group: The ranks.

    Returns:
        The tensors in the order of the group.
    """
    longest = max(sizes)
    padded = tensor.new_zeros(longest)
    padded[: len(tensor)] = tensor
    received = [tensor.new_empty(longest) for _ in sizes]
    if longest:
        dist.all_gather(received, padded, group=group)
    return [part[:size] for part, size in zip(received, sizes, strict=True)]


def gather_json(message: dict[str, Any], group: dist.ProcessGroup | None) -> list[dict[str, Any]]:
    """Gather plain data of all ranks as JSON; PyTorch's own exchange of objects would unpickle what it receives.

    Args:
        message: This rank's data.
        group: The ranks.

    Returns:
        The data of all ranks in the order of the group.
    """
    bound = getattr(group or dist.group.WORLD, "bound_device_id", None)
    device = "cpu" if "cpu:" in dist.get_backend_config(group) else bound or "cuda"
    text = torch.frombuffer(bytearray(to_json(message)), dtype=torch.uint8).to(device)
    length = torch.tensor([len(text)], device=device)
    lengths = [int(size) for size in gather(length, [1] * dist.get_world_size(group), group)]
    return [json.loads(bytes(part.cpu().tolist())) for part in gather(text, lengths, group)]


def to_json(message: dict[str, Any]) -> bytes:
    """Return plain data as JSON; JSON has no word for some values, which are replaced by their ``repr``."""
    return json.dumps(message, default=repr).encode()


def reduce_scatter_in_order(pieces: Sequence[Tensor], group: dist.ProcessGroup | None) -> Tensor:
    """Send every rank its piece, and add the pieces for this rank in the order of the ranks.

    The reductions of a backend promise no order, so their sums may differ in the last bits.

    Args:
        pieces: One 1-D tensor for each rank; all ranks send pieces of one size to the same rank.
        group: The ranks.

    Returns:
        The sum of the pieces for this rank.
    """
    ranks, size = len(pieces), len(pieces[dist.get_rank(group)])
    received = pieces[0].new_empty(ranks * size)
    dist.all_to_all_single(received, torch.cat(list(pieces)), [size] * ranks, [len(p) for p in pieces], group=group)
    first, *others = received.view(ranks, size)
    total: Tensor = first.clone()
    for other in others:
        total += other
    return total
