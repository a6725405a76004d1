"""Sums of Fishers over ranks, against those of a single process."""

from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from asserts import assert_close, assert_same_bits
from cases import randn
from distributed.ranks import Ranks
from distributed.sharding import distribute, mesh_of, part, shard_rows
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


def assert_same_facts(merged: FisherDiagonal, expected: FisherDiagonal) -> None:
    assert (merged.reduction, merged.samples, merged.model) == (expected.reduction, expected.samples, expected.model)
    assert (merged.definition, merged.fallback) == (expected.definition, expected.fallback)
    assert_same_bits(merged.weight, expected.weight)
    assert_same_bits(merged.losses, expected.losses)


def check_merge(groups: bool) -> None:
    model = network()
    parts = [fisher_of(model, rows_of(rank), groups=groups) for rank in range(dist.get_world_size())]
    own = parts[dist.get_rank()]
    before = {name: value.clone() for name, value in tensors(own).items()}
    expected, merged = FisherDiagonal.merge(parts), distributed.merge(own)
    assert_same_facts(merged, expected)
    for name, value in tensors(merged).items():
        assert_same_bits(value, tensors(expected)[name])
    for name, value in tensors(own).items():
        assert_same_bits(value, before[name])
    whole = fisher_of(model, slice(0, SAMPLES), groups=groups)
    assert merged.samples == SAMPLES
    found, mean = merged.mean(), whole.mean()
    assert found.gradient is not None
    assert mean.gradient is not None
    for name, value in mean.items():
        assert_close(found[name], value, 1e-6, name)
        # On the scale of the samples' gradients: those of the bias before the norm cancel in the mean.
        assert (found.gradient[name] - mean.gradient[name]).norm() <= 1e-6 * value.sqrt().norm(), name


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
        named = {name: distribute(value.detach(), mesh, placements) for name, value in model.named_parameters()}
        merged = distributed.merge_sharded(parts[dist.get_rank()], named)
        mean = distributed.merge_sharded(parts[dist.get_rank()], named, reduction="mean")
        assert mean.reduction == "mean"
        assert_same_facts(merged, expected)
        placements[-1] = Shard(int(groups))
        for name, value in tensors(merged).items():
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
    """Merge a scalar, and a tensor with fewer elements than ranks."""
    value, rank, ranks = torch.tensor(2.5), dist.get_rank(), dist.get_world_size()
    sums = {"scalar": value * (rank + 1), "few": torch.arange(2.0) + rank}
    fisher = FisherDiagonal(sums, gradient=None, fallback={}, losses=torch.ones(0), reduction="sum", model="m")
    named = {"scalar": shard_rows(value, mesh_of()), "few": distribute(torch.zeros(2), mesh_of(), [Replicate()])}
    for merged in (distributed.merge(fisher), distributed.merge_sharded(fisher, named)):
        whole = {name: v.to_local() if isinstance(v, DTensor) else v for name, v in merged.items()}
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
    assert distributed.merge(good).samples == 2 * dist.get_world_size()  # all ranks still work


@pytest.mark.parametrize("ranks", [2, 4], indirect=True)
@pytest.mark.parametrize("fault", FAULTS)
def test_one_part_that_does_not_fit(ranks: Ranks, fault: str) -> None:
    ranks.run(check_fault, fault)


def check_parameters() -> None:
    model, fisher = network(), fisher_of(network(), slice(0, 2))
    named = {name: shard_rows(value.detach(), mesh_of()) for name, value in model.named_parameters()}
    with pytest.raises(ValueError, match=r"`parameters` must hold a DTensor `0.weight`, got a plain tensor"):
        distributed.merge_sharded(fisher, model)
    with pytest.raises(ValueError, match=r"`parameters` must hold a DTensor `0.bias`, got nothing"):
        distributed.merge_sharded(fisher, {"0.weight": named["0.weight"]})
    with pytest.raises(
        ValueError, match=r"parameter `0.weight` must have the shape of its Fisher, \(7, 6\), got \(3,\)"
    ):
        distributed.merge_sharded(fisher, {**named, "0.weight": named["2.bias"]})
    columns = distribute(model[0].weight.detach(), mesh_of(), [Shard(1)])
    with pytest.raises(NotImplementedError, match=r"parameter `0.weight` must be sharded over its first dimension"):
        distributed.merge_sharded(fisher, {**named, "0.weight": columns})
    with pytest.raises(ValueError, match=r'`reduction` must be "sum" or "mean", got \'max\''):
        distributed.merge_sharded(fisher, named, reduction="max")
    sums = distributed.merge_sharded(fisher, named)
    with pytest.raises(ValueError, match=r"`fisher` must hold a rank's own sums, got `0.weight` spread over ranks"):
        distributed.merge(sums)


def test_parameters_that_do_not_fit(ranks: Ranks) -> None:
    ranks.run(check_parameters)
