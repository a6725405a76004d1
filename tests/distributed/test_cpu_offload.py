"""`fully_shard` with its policy of offloading: what runs on the ranks' processors, and what is refused."""

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from asserts import assert_close
from distributed.ranks import Ranks
from distributed.sharding import mesh_of
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor._dtensor_spec import DTensorSpec, TensorMeta

import fastforget
from fastforget import MnemonicCodes, distributed
from fastforget.distributed.parameters import check_where_shards_are

CLASSES = 5
CODES = MnemonicCodes.generate(CLASSES, (12,), per_class=2)


def network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 65), nn.Tanh(), nn.Linear(65, CLASSES))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=1e-3)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(CODES.inputs), CODES.labels).backward()
        optimizer.step()
    return model.eval()


def offloaded(model: nn.Module) -> nn.Module:
    mesh, policy = mesh_of(), CPUOffloadPolicy(pin_memory=False)
    for layer in (model[0], model[2]):
        fully_shard(layer, mesh=mesh, offload_policy=policy)
    return fully_shard(model, mesh=mesh, offload_policy=policy)


def check_equals_whole() -> None:
    whole, model = network(), offloaded(network())
    own = slice(dist.get_rank(), None, dist.get_world_size())
    found = distributed.fisher_diagonal(model, CODES.inputs[own], CODES.labels[own])
    for name, value in fastforget.fisher_diagonal(whole, CODES.inputs, CODES.labels).items():
        assert_close(found[name].full_tensor(), value, 1e-5, name)
    expected = fastforget.one_shot(whole, CODES, 1, rho=0.05, widen=1.0)
    receipt = distributed.natural_step(model, CODES, 1, rho=0.05)
    assert receipt.claims == expected.claims
    for name, parameter in whole.named_parameters():
        assert_close(model.get_parameter(name).full_tensor(), parameter, 1e-5, name)


def test_the_same_where_the_mesh_is_on_processors(ranks: Ranks) -> None:
    ranks.run(check_equals_whole)


def test_shards_away_from_their_mesh_are_refused() -> None:
    """As on GPUs, where the policy keeps shards on the CPU."""
    mesh = DeviceMesh("cuda", torch.arange(1), _init_backend=False, _rank=0)
    spec = DTensorSpec(mesh, (Shard(0),), tensor_meta=TensorMeta(torch.Size([3]), (1,), torch.float32))
    there = DTensor(torch.zeros(3), spec, requires_grad=False)
    with pytest.raises(NotImplementedError) as found:
        check_where_shards_are("0.weight", there)
    assert str(found.value) == (
        "parameter `0.weight` is offloaded: its shards are on cpu and its mesh is on cuda. Shard without "
        "CPUOffloadPolicy, or over a mesh of processors: init_device_mesh('cpu', ...)"
    )
