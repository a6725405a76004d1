"""Edits of sharded models, against the edit of the whole model."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from asserts import assert_same_bits
from cases import randn
from distributed.ranks import Ranks
from distributed.sharding import mesh_of, part, shard_rows
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard

import fastforget
from fastforget import Receipt, distributed, ops


def network(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 7), nn.BatchNorm1d(7), nn.Linear(7, 3, bias=False)).eval().to(dtype)


def sharded_network(dtype: torch.dtype = torch.float32) -> nn.Module:
    model, mesh = network(dtype), mesh_of()
    for layer in model:
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def values_of(model: nn.Module, dtype: torch.dtype, seed: int) -> dict[str, Tensor]:
    values = {}
    for number, (name, p) in enumerate(model.named_parameters()):
        values[name] = randn(*p.shape, dtype=dtype, seed=seed + number)
    return values


def shards_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in distributed.local_shards(model).named_parameters()}


def assert_same_shards(model: nn.Module, expected: dict[str, Tensor]) -> None:
    for name, value in shards_of(model).items():
        assert_same_bits(value, expected[name])


def edit(model: nn.Module, k: int = 20) -> tuple[Receipt, dict[str, Tensor], dict[str, Tensor]]:
    """Perturb a model; return the receipt, and the whole scores and directions."""
    scores, directions = values_of(model, torch.float32, 0), values_of(model, torch.float32, 100)
    mesh = mesh_of()
    mask = distributed.topk_mask({name: shard_rows(score, mesh) for name, score in scores.items()}, k)
    receipt = distributed.perturb(model, {n: shard_rows(d, mesh) for n, d in directions.items()}, mask, 0.37)
    return receipt, scores, directions


def check_equals_whole(dtype: torch.dtype, folder: str) -> None:
    model, whole = sharded_network(dtype), network(dtype)
    model(torch.ones(2, 6, dtype=dtype))  # leaves the root's parameters gathered
    before = shards_of(model)
    receipt, scores, directions = edit(model)
    parameters = [p.detach() for p in whole.parameters()]
    mask, _ = ops.select(list(scores.values()), 20)
    ops.perturb(parameters, list(directions.values()), mask, 20, 0.37)
    expected = {n: part(p.detach(), mesh_of(), [Shard(0)]) for n, p in whole.named_parameters()}
    assert_same_shards(model, expected)
    changed = torch.tensor(receipt.changed)
    dist.all_reduce(changed)
    assert int(changed) == 20
    inputs = randn(4, 6, dtype=dtype)
    with torch.no_grad():
        assert_same_bits(model(inputs), whole(inputs))
    path = Path(folder) / f"{dist.get_rank()}-{dtype}"
    receipt.save(path)
    kept = Receipt.load(path)
    distributed.revert(kept, model)
    assert_same_shards(model, before)
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    distributed.apply(kept, model)
    assert_same_shards(model, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_equals_the_edit_of_the_whole(ranks: Ranks, dtype: torch.dtype, tmp_path: Path) -> None:
    ranks.run(check_equals_whole, dtype, str(tmp_path))


def check_refusals() -> None:
    """One rank that cannot write keeps all ranks from it."""
    model, rank, last = sharded_network(), dist.get_rank(), dist.get_world_size() - 1
    before = shards_of(model)
    receipt, _, _ = edit(model)
    after = shards_of(model)
    with pytest.raises(ValueError, match="must be the one this edit was made on: the fingerprint of its shards"):
        distributed.apply(receipt, model)
    owner = next(n for n, p in distributed.local_shards(model).named_parameters() if p.numel() or rank != 0)
    if rank == 0:  # its first shards are never empty
        distributed.local_shards(model).get_parameter(owner).view(-1)[0] += 1
    touched = shards_of(model)
    with pytest.raises(ValueError, match="must be as this edit left it: the fingerprint of its shards"):
        distributed.revert(receipt, model)
    assert_same_shards(model, touched)
    if rank == 0:
        distributed.local_shards(model).get_parameter(owner).view(-1)[0] = after[owner].view(-1)[0]
    with pytest.raises(ValueError, match="this receipt must hold the old values to be reverted"):
        distributed.revert(receipt.without_undo() if rank == last else receipt, model)
    with pytest.raises(TypeError, match="`receipt` must be a Receipt, got str"):
        distributed.revert("receipt" if rank == last else receipt, model)
    assert_same_shards(model, after)
    distributed.revert(receipt, model)
    assert_same_shards(model, before)


def test_all_ranks_or_none(ranks: Ranks) -> None:
    ranks.run(check_refusals)


def check_other_ranks(folder: str) -> None:
    model, rank = sharded_network(), dist.get_rank()
    receipt, _, _ = edit(model)
    receipt.save(Path(folder) / str(rank))
    dist.barrier()
    other = Receipt.load(Path(folder) / str((rank + 1) % dist.get_world_size()))
    with pytest.raises(ValueError, match=rf"`receipt` must be the one of {{'rank': {rank}, 'ranks': 2}}, got that of"):
        distributed.revert(other, model)
    again = sharded_network()
    longer, _, _ = edit(again, 21)
    with pytest.raises(ValueError, match=r"ranks must agree in their edit|as this edit left it"):
        distributed.revert(longer if rank else receipt, model)


@pytest.mark.parametrize("ranks", [2], indirect=True)
def test_receipts_of_other_ranks_and_edits(ranks: Ranks, tmp_path: Path) -> None:
    ranks.run(check_other_ranks, str(tmp_path))


def check_faults() -> None:
    model, mesh = sharded_network(), mesh_of()
    before = shards_of(model)
    good = {n: shard_rows(v, mesh) for n, v in values_of(model, torch.float32, 0).items()}
    mask = distributed.topk_mask(good, 5)
    some = next(iter(good))
    size = r"must have the shape that parameter `0.weight` has on this rank"
    faults = [
        ((good, mask, "1"), TypeError, "`alpha` must be a number, got str"),
        ((good, mask, float("nan")), ValueError, "`alpha` must be finite, got nan"),
        ((good, {}, 1.0), ValueError, "`mask` must have the names of `directions`"),
        (({"x": good[some]}, {"x": mask[some]}, 1.0), ValueError, "`directions` must name parameters of the model"),
        (({**good, some: torch.ones(99)}, mask, 1.0), ValueError, "`directions` " + size),
        ((good, {**mask, some: torch.ones(99) > 0}, 1.0), ValueError, "`mask` " + size),
        ((good, good, 1.0), ValueError, "`directions` must be floating point and `mask` bool, got torch.float32 and t"),
    ]
    for arguments, kind, text in faults:
        with pytest.raises(kind, match=text):
            distributed.perturb(model, *arguments)
        assert_same_shards(model, before)
    receipt = distributed.perturb(model, good, mask, 1, undo=False)
    assert receipt.reversible == (receipt.changed == 0)


def test_faults_leave_the_model(ranks: Ranks) -> None:
    ranks.run(check_faults)


def test_the_shards_of_a_plain_model_are_the_model() -> None:
    model = network()
    shards = distributed.local_shards(model)
    assert fastforget.fingerprint(shards) == fastforget.fingerprint(model)
    assert shards.get_parameter("0.weight").data_ptr() == model[0].weight.data_ptr()
    with pytest.raises(TypeError, match=r"`model` must be a torch.nn.Module, got str"):
        distributed.local_shards("model")
