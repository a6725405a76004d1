"""Checks that end the same way on all ranks: a fault on one is an error on all, so that none waits for ever."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch.distributed as dist

from fastforget.distributed.communication import gather_json, to_json

__all__ = ["Statement", "consensus"]

# NotImplementedError is a RuntimeError, so it comes first.
_FAULTS: dict[str, type[Exception]] = {
    fault.__name__: fault for fault in (TypeError, ValueError, NotImplementedError, RuntimeError)
}


@dataclass
class Statement:
    """What this rank tells the others, and what they told it.

    Attributes:
        facts: Plain data that must be the same on all ranks, by its name in an error.
        notes: Plain data about this rank that the others need.
        all_notes: The notes of all ranks, in the order of the group; empty until `consensus` ends.
    """

    facts: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    all_notes: list[dict[str, Any]] = field(default_factory=list)


@contextmanager
def consensus(group: dist.ProcessGroup | None) -> Iterator[Statement]:
    """Run checks on every rank; then all ranks go on, or all raise an error.

    Every rank of the group must enter. An error inside is raised unchanged on its own rank. The other ranks raise it
    with the number of that rank.

    Args:
        group: The ranks.

    Yields:
        The statement of this rank, to be filled in.

    Raises:
        ValueError: The ranks differ in a fact.
        RuntimeError: `torch.distributed` is not initialised.
    """
    if not dist.is_available() or not dist.is_initialized():
        raise RuntimeError(
            "torch.distributed must be initialised, call torch.distributed.init_process_group() under torchrun"
        )
    statement, error = Statement(), None
    try:
        yield statement
    except Exception as fault:  # noqa: BLE001 - raised below, once the other ranks know
        error = fault
    kind = error and next((name for name, fault in _FAULTS.items() if isinstance(error, fault)), "RuntimeError")
    facts = hashlib.blake2b(to_json(statement.facts), digest_size=16).hexdigest()
    answers = gather_json({"kind": kind, "text": str(error), "facts": facts, "notes": statement.notes}, group)
    if error is not None:
        raise error
    for rank, answer in enumerate(answers):
        if answer["kind"] is not None:
            raise _FAULTS[answer["kind"]](f"rank {rank}: {answer['text']}")
    # All ranks see that hashes differ, so all of them send their facts.
    if any(answer["facts"] != facts for answer in answers):
        _check_equal(gather_json(statement.facts, group))
    statement.all_notes = [answer["notes"] for answer in answers]


def _check_equal(facts: Sequence[dict[str, Any]]) -> None:
    for name in dict.fromkeys(name for of_rank in facts for name in of_rank):
        for rank, of_rank in enumerate(facts):
            if of_rank.get(name) != facts[0].get(name):
                raise ValueError(
                    f"ranks must agree in their {name}, got {facts[0].get(name)} on rank 0 and {of_rank.get(name)} on "
                    f"rank {rank}"
                )
