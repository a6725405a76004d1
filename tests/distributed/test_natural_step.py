"""A class forgotten by a sharded model, against `one_shot` on the whole one."""

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from asserts import assert_close, assert_same_bits
from distributed.ranks import Ranks
from distributed.spreading import mesh_of
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard

import fastforget
from fastforget import ForgettingError, MnemonicCodes, UnrecognisedCodesError, distributed

CLASSES = 5
CODES = MnemonicCodes.generate(CLASSES, (12,), per_class=3)


def network() -> nn.Module:
    """Knows its codes; the same on every rank."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 65), nn.Tanh(), nn.Linear(65, CLASSES))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=1e-3)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(CODES.inputs), CODES.labels).backward()
        optimizer.step()
    return model.eval()


def shard(model: nn.Module) -> nn.Module:
    mesh = mesh_of()
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def shards_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in distributed.local_shards(model).named_parameters()}


def check_equals_whole(batch_size: int | None) -> None:
    whole, model = network(), shard(network())
    before = shards_of(model)
    expected = fastforget.one_shot(whole, CODES, 1, rho=0.05, silence=False, widen=1.0)
    receipt = distributed.natural_step(model, CODES, 1, rho=0.05, batch_size=batch_size)
    assert receipt.alpha == pytest.approx(expected.alpha, rel=1e-4)
    for name, value in expected.evidence.items():
        if name in receipt.evidence:
            assert receipt.evidence[name] == pytest.approx(value, abs=1e-4)
    changed = torch.tensor(receipt.changed)
    dist.all_reduce(changed)
    assert int(changed) == expected.changed
    distributed.local_shards(model)  # sharded again
    for name, parameter in whole.named_parameters():
        assert_close(model.get_parameter(name).full_tensor(), parameter, 1e-5, name)
    with torch.no_grad():
        found = model(CODES.inputs).argmax(1)
    forget = CODES.labels == 1
    assert not bool((found == 1)[forget].any())
    assert bool((found == CODES.labels)[~forget].all())
    again = distributed.natural_step(model, CODES, 3, rho=0.05, forgotten=1)
    distributed.revert(again, model)
    distributed.revert(receipt, model)
    for name, value in shards_of(model).items():
        assert_same_bits(value, before[name])


@pytest.mark.parametrize("batch_size", [None, 4])
def test_equals_one_shot_on_the_whole_model(ranks: Ranks, batch_size: int | None) -> None:
    ranks.run(check_equals_whole, batch_size)


def check_faults() -> None:
    model = shard(network())
    before = shards_of(model)
    last = dist.get_rank() == dist.get_world_size() - 1
    with pytest.raises(ForgettingError, match="no step"):
        distributed.natural_step(model, CODES, 1, rho=0.05, reach=1e-3)
    with pytest.raises(UnrecognisedCodesError, match="`mnemonic_codes` must be known to the model, but it recognises"):
        distributed.natural_step(model, MnemonicCodes.generate(CLASSES, (12,), seed=7), 1)
    with pytest.raises(TypeError, match="`mnemonic_codes` must be MnemonicCodes, got Tensor"):
        distributed.natural_step(model, CODES.tensor if last else CODES, 1)
    with pytest.raises(ValueError, match=r"`rho` must lie in \(0, 1\], got 2"):
        distributed.natural_step(model, CODES, 1, rho=2)
    with pytest.raises(ValueError, match=r"`cls` must lie in \[0, 5\), got \[5\]"):
        distributed.natural_step(model, CODES, 5 if last else 1)
    with pytest.raises(ValueError, match=r"`cls` must be one class, got \[1, 2\]: forget them one after the other"):
        distributed.natural_step(model, CODES, [2, 1])
    for name, value in shards_of(model).items():
        assert_same_bits(value, before[name])


def test_faults_leave_the_model(ranks: Ranks) -> None:
    ranks.run(check_faults)


def check_differing() -> None:
    model = shard(network())
    other = MnemonicCodes(CODES.stacked + 1.0)
    with pytest.raises(ValueError, match="ranks must agree in their `mnemonic_codes`, got"):
        distributed.natural_step(model, CODES if dist.get_rank() else other, 1)
    with pytest.raises(ValueError, match=r"ranks must agree in their `cls`, got \[2\] on rank 0 and \[1\] on rank 1"):
        distributed.natural_step(model, CODES, 1 if dist.get_rank() else 2)
    with pytest.raises(ValueError, match=r"ranks must agree in their `batch_size`, got None on rank 0 and 4 on rank 1"):
        distributed.natural_step(model, CODES, 1, batch_size=4 if dist.get_rank() else None)


@pytest.mark.parametrize("ranks", [2], indirect=True)
def test_ranks_that_differ(ranks: Ranks) -> None:
    ranks.run(check_differing)
