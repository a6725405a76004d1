"""Sums of Fishers over ranks, against those of a single process."""

from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from asserts import assert_close, assert_same_bits
from cases import randn
from distributed.ranks import Ranks
from distributed.spreading import mesh_of, part, sharded, spread
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate, Shard

from fastforget import FisherDiagonal, distributed, fisher_diagonal

SAMPLES = 13


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 3), nn.LayerNorm(3)).eval()


def fisher_of(model: nn.Module, rows: slice, *, groups: bool = False) -> FisherDiagonal:
    inputs, targets = randn(SAMPLES, 6), torch.arange(SAMPLES) % 3
    weights = torch.stack([targets == 1, targets != 1]).float()[:, rows] + 0.5 if groups else None
    settings = {"reduction": "sum", "with_gradient": True, "weights": weights}
    return fisher_diagonal(model, inputs[rows], targets[rows], **settings)


def rows_of(rank: int) -> slice:
    """Uneven shares of the samples."""
    ends = [0, 1, 4, 6, SAMPLES] if dist.get_world_size() == 4 else [0, 5, SAMPLES]
    return slice(0, SAMPLES) if dist.get_world_size() == 1 else slice(ends[rank], ends[rank + 1])


def tensors(fisher: FisherDiagonal) -> dict[str, Tensor]:
    assert fisher.gradient is not None
    return {**fisher, **{f"gradient of {name}": value for name, value in fisher.gradient.items()}}


def assert_same_facts(found: FisherDiagonal, expected: FisherDiagonal) -> None:
    assert (found.reduction, found.samples, found.model) == (expected.reduction, expected.samples, expected.model)
    assert (found.definition, found.fallback) == (expected.definition, expected.fallback)
    assert_same_bits(found.weight, expected.weight)
    assert_same_bits(found.losses, expected.losses)


def check_merge(groups: bool) -> None:
    model = network()
    parts = [fisher_of(model, rows_of(rank), groups=groups) for rank in range(dist.get_world_size())]
    mine = parts[dist.get_rank()]
    before = {name: value.clone() for name, value in tensors(mine).items()}
    expected, found = FisherDiagonal.merge(parts), distributed.merge(mine)
    assert_same_facts(found, expected)
    for name, value in tensors(found).items():
        assert_same_bits(value, tensors(expected)[name])
    for name, value in tensors(mine).items():
        assert_same_bits(value, before[name])
    whole = fisher_of(model, slice(0, SAMPLES), groups=groups)
    assert found.samples == SAMPLES
    for name, value in tensors(found.mean()).items():
        assert_close(value, tensors(whole.mean())[name], 1e-6, name)


@pytest.mark.parametrize("groups", [False, True])
def test_has_the_bits_of_a_single_process(ranks: Ranks, groups: bool) -> None:
    ranks.run(check_merge, groups)


def check_sharded(groups: bool, meshes: tuple[tuple[int, ...], ...]) -> None:
    model = network()
    parts = [fisher_of(model, rows_of(rank), groups=groups) for rank in range(dist.get_world_size())]
    expected = FisherDiagonal.merge(parts)
    for sizes in meshes:
        mesh = mesh_of(*sizes)
        placements = [*[Replicate()] * (len(sizes) - 1), Shard(0)]
        named = {name: spread(value.detach(), mesh, placements) for name, value in model.named_parameters()}
        found = distributed.merge_sharded(parts[dist.get_rank()], named)
        mean = distributed.merge_sharded(parts[dist.get_rank()], named, reduction="mean")
        assert mean.reduction == "mean"
        assert_same_facts(found, expected)
        placements[-1] = Shard(int(groups))
        for name, value in tensors(found).items():
            assert isinstance(value, DTensor)
            assert list(value.placements) == placements
            assert_same_bits(value.to_local(), part(tensors(expected)[name], mesh, placements))
            assert_same_bits(tensors(mean)[name].to_local(), part(tensors(expected.mean())[name], mesh, placements))


@pytest.mark.parametrize("groups", [False, True])
def test_each_rank_has_its_shard_alone(ranks: Ranks, groups: bool) -> None:
    ranks.run(check_sharded, groups, ((ranks.count,),))


@pytest.mark.parametrize("ranks", [4], indirect=True)
def test_hybrid_shards(ranks: Ranks) -> None:
    ranks.run(check_sharded, False, ((2, 2), (4, 1), (1, 4)))


def check_replicated() -> None:
    """Also a scalar, and more ranks than elements."""
    value, rank, ranks = torch.tensor(2.5), dist.get_rank(), dist.get_world_size()
    sums = {"scalar": value * (rank + 1), "few": torch.arange(2.0) + rank}
    fisher = FisherDiagonal(sums, gradient=None, fallback={}, losses=torch.ones(0), reduction="sum", model="m")
    named = {"scalar": sharded(value, mesh_of()), "few": spread(torch.zeros(2), mesh_of(), [Replicate()])}
    for found in (distributed.merge(fisher), distributed.merge_sharded(fisher, named)):
        whole = {name: v.to_local() if isinstance(v, DTensor) else v for name, v in found.items()}
        assert whole["scalar"].item() == 2.5 * ranks * (ranks + 1) / 2
        assert whole["few"].tolist() == [sum(range(ranks)), sum(range(ranks)) + ranks]


def test_scalars_and_replicated_parameters(ranks: Ranks) -> None:
    ranks.run(check_replicated)


def other_definition() -> FisherDiagonal:
    return fisher_diagonal(network(), randn(2, 6), labels="expectation", reduction="sum", with_gradient=True)


def other_groups() -> FisherDiagonal:
    return fisher_of(network(), slice(0, 2), groups=True)


def other_names() -> FisherDiagonal:
    inputs, targets = randn(2, 6), torch.tensor([0, 1])
    settings = {"reduction": "sum", "parameters": ["0.weight"], "with_gradient": True}
    return fisher_diagonal(network(), inputs, targets, **settings)


def other_gradient() -> FisherDiagonal:
    return fisher_diagonal(network(), randn(2, 6), torch.tensor([0, 1]), reduction="sum")


def a_mean() -> FisherDiagonal:
    return fisher_diagonal(network(), randn(2, 6), torch.tensor([0, 1]))


FAULTS: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "model": (lambda: fisher_of(network(1), slice(0, 2)), ValueError, "ranks must agree in their fingerprint of the m"),
    "definition": (other_definition, ValueError, "ranks must agree in their definition, got"),
    "groups": (other_groups, ValueError, r"ranks must agree in their groups, got \[\] on rank 0 and \[2\] on rank"),
    "names": (other_names, ValueError, "ranks must agree in their names of parameters, got"),
    "gradient": (other_gradient, ValueError, "ranks must agree in their with_gradient, got True on rank 0 and False"),
    "mean": (a_mean, ValueError, "`fisher` must be a sum, got a mean"),
    "type": (dict, TypeError, "`fisher` must be a FisherDiagonal, got dict"),
}


def check_fault(fault: str) -> None:
    make, kind, text = FAULTS[fault]
    good = fisher_of(network(), slice(0, 2))
    given = make() if dist.get_rank() == dist.get_world_size() - 1 else good
    with pytest.raises(kind, match=text):
        distributed.merge(given)
    assert distributed.merge(good).samples == 2 * dist.get_world_size()  # all go on


@pytest.mark.parametrize("ranks", [2, 4], indirect=True)
@pytest.mark.parametrize("fault", FAULTS)
def test_one_part_that_does_not_fit(ranks: Ranks, fault: str) -> None:
    ranks.run(check_fault, fault)


def check_parameters() -> None:
    model, fisher = network(), fisher_of(network(), slice(0, 2))
    named = {name: sharded(value.detach(), mesh_of()) for name, value in model.named_parameters()}
    with pytest.raises(ValueError, match=r"`parameters` must hold a DTensor `0.weight`, got a plain tensor"):
        distributed.merge_sharded(fisher, model)
    with pytest.raises(ValueError, match=r"`parameters` must hold a DTensor `0.bias`, got nothing"):
        distributed.merge_sharded(fisher, {"0.weight": named["0.weight"]})
    with pytest.raises(
        ValueError, match=r"parameter `0.weight` must have the shape of its Fisher, \(7, 6\), got \(3,\)"
    ):
        distributed.merge_sharded(fisher, {**named, "0.weight": named["2.bias"]})
    columns = spread(model[0].weight.detach(), mesh_of(), [Shard(1)])
    with pytest.raises(NotImplementedError, match=r"parameter `0.weight` must be sharded over its first dimension"):
        distributed.merge_sharded(fisher, {**named, "0.weight": columns})
    with pytest.raises(ValueError, match=r'`reduction` must be "sum" or "mean", got \'max\''):
        distributed.merge_sharded(fisher, named, reduction="max")
    sums = distributed.merge_sharded(fisher, named)
    with pytest.raises(ValueError, match=r"`fisher` must hold a rank's own sums, got `0.weight` spread over ranks"):
        distributed.merge(sums)


def test_parameters_that_do_not_fit(ranks: Ranks) -> None:
    ranks.run(check_parameters)
