"""topk_mask of scores that are sharded over ranks, against topk_mask in a single process."""

import math
import random
from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from asserts import assert_same_bits
from cases import DTYPES, randn
from distributed.ranks import Ranks
from distributed.sharding import distribute, mesh_of, part, shard_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributed.tensor import Partial, Replicate, Shard

import fastforget
from fastforget import distributed

SIZES = [(7, 9), (3,), (0, 4), (), (2, 2, 5), (70_001,), (5, 1)]


def wholes(sizes: list[tuple[int, ...]], levels: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Return the same scores on every rank, in steps of 1 / ``levels``."""
    return [(randn(*size, seed=at) * levels).round().to(dtype) for at, size in enumerate(sizes)]


def cuts(whole: Tensor, chosen: random.Random, ranks: int) -> list[Tensor]:
    """Uneven parts, some of them empty."""
    ends = sorted(chosen.randint(0, whole.numel()) for _ in range(ranks - 1))
    return list(whole.flatten().tensor_split(ends))


def check(sizes: list[tuple[int, ...]], levels: int, k: float, seed: int, dtype: torch.dtype = torch.float32) -> None:
    """Compare masks of DTensors, sharded or replicated, and of plain parts."""
    scores, mesh, chosen = wholes(sizes, levels, dtype), mesh_of(), random.Random(seed)  # noqa: S311
    expected = fastforget.topk_mask(scores, k)
    placements = [[Shard(0) if score.dim() and chosen.random() < 0.7 else Replicate()] for score in scores]
    masks = distributed.topk_mask([distribute(s, mesh, p) for s, p in zip(scores, placements, strict=True)], k)
    for mask, whole, placement in zip(masks, expected, placements, strict=True):
        assert mask.shape == whole.shape
        assert list(mask.placements) == placement
        assert_same_bits(mask.to_local(), part(whole, mesh, placement))
    rank, ranks = dist.get_rank(), dist.get_world_size()
    divided = [cuts(score, chosen, ranks) for score in scores]
    masks = distributed.topk_mask({str(at): parts[rank] for at, parts in enumerate(divided)}, k)
    for mask, parts, whole in zip(masks.values(), divided, expected, strict=True):
        assert_same_bits(mask, whole.flatten().split([part.numel() for part in parts])[rank])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("levels", [1, 1000])
def test_equals_a_single_process(ranks: Ranks, levels: int, dtype: torch.dtype) -> None:
    total = sum(math.prod(size) for size in SIZES)
    for seed, k in enumerate((1, 0.003, total // 3, total - 1, total)):
        ranks.run(check, SIZES, levels, k, seed, dtype)


@settings(max_examples=25)
@given(data=st.data())
def test_any_shapes_with_ties(ranks: Ranks, data: st.DataObject) -> None:
    shape = st.lists(st.integers(0, 9), max_size=3).map(tuple)
    sizes = data.draw(st.lists(shape, min_size=1, max_size=6).filter(lambda drawn: any(map(math.prod, drawn))))
    k = data.draw(st.integers(1, sum(map(math.prod, sizes))))
    ranks.run(check, sizes, data.draw(st.sampled_from([0, 1, 3, 100])), k, data.draw(st.integers(0, 99)))


def check_meshes() -> None:
    """Scores replicated on one dimension of the mesh, as in hybrid sharding, count once."""
    scores = wholes(SIZES[:3], 2)
    for sizes in ((2, 2), (1, 4), (4, 1)):
        for placements in ([Replicate(), Shard(0)], [Shard(0), Replicate()], [Replicate(), Replicate()]):
            mesh = mesh_of(*sizes)
            for k in (1, 20, 66):
                masks = distributed.topk_mask([distribute(score, mesh, placements) for score in scores], k)
                for mask, whole in zip(masks, fastforget.topk_mask(scores, k), strict=True):
                    assert_same_bits(mask.to_local(), part(whole, mesh, placements))


@pytest.mark.parametrize("ranks", [4], indirect=True)
def test_meshes_of_two_dimensions(ranks: Ranks) -> None:
    ranks.run(check_meshes)


def check_sent() -> None:
    """Ranks exchange texts, three histograms and a count per tensor and rank."""
    sent: list[int] = []
    reduce = dist.all_reduce

    def counted(tensor: Tensor, *args: object, **kwargs: object) -> object:
        sent.append(tensor.numel() * tensor.element_size())
        return reduce(tensor, *args, **kwargs)

    dist.all_reduce = counted
    try:
        distributed.topk_mask([shard_rows(score, mesh_of()) for score in wholes(SIZES, 10)], 100)
    finally:
        dist.all_reduce = reduce
    assert sent == [2048 * 8, 2048 * 8, 1024 * 8, len(SIZES) * dist.get_world_size() * 8]


def test_what_is_sent_does_not_grow_with_the_scores(ranks: Ranks) -> None:
    ranks.run(check_sent)


def one_is_nan() -> Tensor:
    whole = torch.arange(12.0).view(4, 3)
    whole[3, 2] = math.nan
    return whole


def only_on_the_last(fault: Callable[[], object], good: object) -> object:
    return fault() if dist.get_rank() == dist.get_world_size() - 1 else good


FAULTS: dict[str, tuple[Callable[[], tuple[object, object]], type[Exception], str]] = {
    "nan": (
        lambda: (shard_rows(one_is_nan(), mesh_of()), 3),
        ValueError,
        "`scores` must not be NaN, got NaN in a tensor",
    ),
    "k zero": (lambda: (torch.ones(3), 0), ValueError, r"`k` must lie in \[1, \d+\], got 0"),
    "k large": (lambda: (shard_rows(torch.ones(3), mesh_of()), 4), ValueError, r"`k` must lie in \[1, 3\], got 4"),
    "share": (lambda: (torch.ones(3), 1.5), ValueError, r"`k` as a share must lie in \(0, 1\], got 1.5"),
    "k text": (lambda: (torch.ones(3), "3"), TypeError, "`k` must be an int or a float, got str"),
    "int": (lambda: (torch.ones(3).int(), 1), ValueError, "`scores` must be floating point, got torch.int32"),
    "mixed": (lambda: ([torch.ones(3), torch.ones(2).double()], 1), ValueError, "`scores` must have one dtype and dev"),
    "none": (lambda: ([], 1), ValueError, "`scores` must not be empty"),
    "empty": (lambda: (torch.ones(0), 1), ValueError, "`scores` must not be empty"),
    "no tensor": (lambda: ([3.0], 1), TypeError, "`scores` must hold tensors only, got float"),
    "number": (lambda: (3.0, 1), TypeError, "`scores` must be a tensor, list or dict of tensors, got float"),
    "columns": (
        lambda: (distribute(torch.ones(3, 4), mesh_of(), [Shard(1)]), 1),
        NotImplementedError,
        "`scores` must be sharded over its first dimension on one dimension of the mesh",
    ),
    "partial": (
        lambda: (distribute(torch.ones(3, 4), mesh_of(), [Partial()]), 1),
        NotImplementedError,
        "`scores` must be sharded over its first dimension on one dimension of the mesh",
    ),
    "on one rank": (
        lambda: (only_on_the_last(lambda: torch.tensor([1.0, math.nan]), torch.ones(2)), 1),
        ValueError,
        "`scores` must not be NaN, got NaN in a tensor",
    ),
}


def check_fault(fault: str) -> None:
    make, kind, text = FAULTS[fault]
    scores, k = make()
    with pytest.raises(kind, match=text):
        distributed.topk_mask(scores, k)
    assert int(distributed.topk_mask(torch.ones(3), 2).sum()) == (
        2 if dist.get_rank() == 0 else 0
    )  # all ranks still work


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_errors_on_all_ranks(ranks: Ranks, fault: str) -> None:
    ranks.run(check_fault, fault)


def check_differing() -> None:
    rank, last = dist.get_rank(), dist.get_world_size() - 1
    with pytest.raises(ValueError, match=rf"ranks must agree in their `k`, got 1 on rank 0 and 2 on rank {last}"):
        distributed.topk_mask(torch.ones(5), 2 if rank == last else 1)
    with pytest.raises(ValueError, match=r"ranks must agree in their names of scores, got \['a'\] on rank 0 and 1"):
        distributed.topk_mask([torch.ones(5)] if rank == last else {"a": torch.ones(5)}, 1)
    with pytest.raises(ValueError, match="ranks must agree in their dtype of scores"):
        distributed.topk_mask(torch.ones(5, dtype=torch.float64 if rank == last else torch.float32), 1)
    kind, text = (
        (TypeError, "^`scores` must hold") if rank == last else (TypeError, f"^rank {last}: `scores` must hold")
    )
    with pytest.raises(kind, match=text):
        distributed.topk_mask(["a"] if rank == last else [torch.ones(5)], 1)


@pytest.mark.parametrize("ranks", [2, 4], indirect=True)
def test_ranks_that_differ(ranks: Ranks) -> None:
    ranks.run(check_differing)


def test_without_a_group() -> None:
    with pytest.raises(RuntimeError, match=r"torch.distributed must be initialised"):
        distributed.topk_mask(torch.ones(3), 1)
