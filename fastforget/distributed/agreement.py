"""What ranks must agree on before they start: a fault on one of them is an error on all, not a wait for ever."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["Agreement", "agreement", "check_backend", "gather"]

_FAULTS: dict[str, type[Exception]] = {
    fault.__name__: fault for fault in (TypeError, ValueError, NotImplementedError, RuntimeError)
}


@dataclass
class Agreement:
    """What this rank says, and after the `agreement` what all of them said.

    Attributes:
        facts: What must be the same on all ranks; plain data by what it is called in an error.
        notes: What the others want to know of this rank; plain data.
        everywhere: The notes of all ranks, in the order of the group.
    """

    facts: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    everywhere: list[dict[str, Any]] = field(default_factory=list)


@contextmanager
def agreement(group: dist.ProcessGroup | None) -> Iterator[Agreement]:
    """Check something on every rank, and go on on all of them or on none.

    Every rank of the group must come here. An error inside is raised on its own rank as it is, and on the others with
    the number of that rank.

    Args:
        group: The ranks.

    Yields:
        Where this rank writes what it has to say.

    Raises:
        ValueError: The ranks do not agree in a fact.
        RuntimeError: `torch.distributed` is not initialised.
    """
    if not dist.is_available() or not dist.is_initialized():
        raise RuntimeError(
            "torch.distributed must be initialised, call torch.distributed.init_process_group() under torchrun"
        )
    here, error = Agreement(), None
    try:
        yield here
    except Exception as fault:  # noqa: BLE001 - raised below, once the others know
        error = fault
    # NotImplementedError is a RuntimeError, and comes before it
    kind = error and next((name for name, fault in _FAULTS.items() if isinstance(error, fault)), "RuntimeError")
    facts = hashlib.blake2b(_text(here.facts), digest_size=16).hexdigest()
    said = _exchange({"kind": kind, "text": str(error), "facts": facts, "notes": here.notes}, group)
    if error is not None:
        raise error
    for rank, other in enumerate(said):
        if other["kind"] is not None:
            raise _FAULTS[other["kind"]](f"rank {rank}: {other['text']}")
    if any(other["facts"] != facts for other in said):  # which all ranks see; only then the facts are worth sending
        _compare(_exchange(here.facts, group))
    here.everywhere = [other["notes"] for other in said]


def check_backend(name: str, tensor: Tensor, group: dist.ProcessGroup | None) -> None:
    """Raise ValueError if a group cannot send tensors from where this one is.

    Args:
        name: What it is called in the error.
        tensor: The tensor.
        group: The ranks.

    Raises:
        ValueError: It cannot.
    """
    config = dist.get_backend_config(group)
    if f"{tensor.device.type}:" not in config:
        raise ValueError(f"{name} must be on a device that the process group serves, {config}, got {tensor.device}")


def gather(mine: Tensor, sizes: list[int], group: dist.ProcessGroup | None) -> list[Tensor]:
    """Return the 1-D tensors of all ranks on every rank.

    Args:
        mine: That of this rank.
        sizes: Elements of every rank's.
        group: The ranks.

    Returns:
        The tensors in the order of the group.
    """
    longest = max(sizes)
    padded = mine.new_zeros(longest)
    padded[: len(mine)] = mine
    parts = [mine.new_empty(longest) for _ in sizes]
    if longest:
        dist.all_gather(parts, padded, group=group)
    return [part[:size] for part, size in zip(parts, sizes, strict=True)]


def _exchange(message: dict[str, Any], group: dist.ProcessGroup | None) -> list[dict[str, Any]]:
    """Gather plain data as JSON; what PyTorch offers for objects would unpickle what it receives."""
    bound = getattr(group or dist.group.WORLD, "bound_device_id", None)
    served = "cpu" if "cpu:" in dist.get_backend_config(group) else bound or "cuda"
    text = torch.frombuffer(bytearray(_text(message)), dtype=torch.uint8).to(served)
    ranks = dist.get_world_size(group)
    length = torch.tensor([len(text)], device=served)
    lengths = [int(size) for size in gather(length, [1] * ranks, group)]
    return [json.loads(bytes(part.cpu().tolist())) for part in gather(text, lengths, group)]


def _text(message: dict[str, Any]) -> bytes:
    return json.dumps(message, default=repr).encode()


def _compare(facts: list[dict[str, Any]]) -> None:
    for name in dict.fromkeys(name for said in facts for name in said):
        for rank, said in enumerate(facts):
            if said.get(name) != facts[0].get(name):
                raise ValueError(
                    f"ranks must agree in their {name}, got {facts[0].get(name)} on rank 0 and {said.get(name)} on "
                    f"rank {rank}"
                )
