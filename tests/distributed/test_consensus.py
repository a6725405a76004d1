"""Ranks that check something together, and the tensors that they exchange."""

import pytest
import torch
import torch.distributed as dist
from asserts import assert_same_bits
from distributed.ranks import Ranks

from fastforget.distributed.communication import check_backend, gather
from fastforget.distributed.consensus import consensus


def check_notes() -> None:
    rank, ranks = dist.get_rank(), dist.get_world_size()
    with consensus(None) as statement:
        statement.facts["shape"] = (2, 3)
        statement.notes["rank"] = rank
    assert statement.all_notes == [{"rank": other} for other in range(ranks)]


def test_every_rank_gets_the_notes_of_all(ranks: Ranks) -> None:
    ranks.run(check_notes)


def fail(fault: Exception | None) -> None:
    with consensus(None):
        if fault is not None:
            raise fault


def check_errors() -> None:
    """An error of an unexpected type is a RuntimeError on the other ranks."""
    rank, last = dist.get_rank(), dist.get_world_size() - 1
    for fault, told in ((KeyError("x"), RuntimeError), (NotImplementedError("x"), NotImplementedError)):
        with pytest.raises(type(fault) if rank == last else told) as caught:
            fail(fault if rank == last else None)
        assert rank == last or str(caught.value) == f"rank {last}: {fault}"
        check_notes()  # all ranks still work


def test_an_error_on_one_rank_is_one_on_all(ranks: Ranks) -> None:
    ranks.run(check_errors)


def check_facts() -> None:
    rank = dist.get_rank()
    with (
        pytest.raises(ValueError, match=r"ranks must agree in their b, got 2 on rank 0 and None on rank 1"),
        consensus(None) as statement,
    ):
        statement.facts.update({"a": 1} if rank == 1 else {"a": 1, "b": 2})
    check_notes()


@pytest.mark.parametrize("ranks", [2, 4], indirect=True)
def test_facts_that_differ(ranks: Ranks) -> None:
    ranks.run(check_facts)


def check_gather() -> None:
    rank, ranks = dist.get_rank(), dist.get_world_size()
    parts = gather(torch.full((rank % 3,), float(rank)), [other % 3 for other in range(ranks)], None)
    for other, part in enumerate(parts):
        assert_same_bits(part, torch.full((other % 3,), float(other)))
    assert [len(part) for part in gather(torch.ones(0), [0] * ranks, None)] == [0] * ranks
    with pytest.raises(ValueError, match=r"`x` must be on a device that the process group serves, .*, got meta"):
        check_backend("`x`", torch.ones(1, device="meta"), None)


def test_parts_of_any_size(ranks: Ranks) -> None:
    ranks.run(check_gather)
