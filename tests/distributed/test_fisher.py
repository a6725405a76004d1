"""The Fisher of sharded models, against the Fisher of the whole model."""

from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from asserts import assert_close, assert_same_bits
from cases import randn
from distributed.ranks import Ranks
from distributed.sharding import mesh_of, part
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard

import fastforget
from fastforget import distributed

CLASSES, SAMPLES = 3, 7


class Attention(nn.Module):
    """Uses the weights of a module that it does not call, and its own parameter twice."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.shift = nn.Parameter(torch.randn(8) / 9)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x + self.shift)
        return x + self.shift.sin() + self.attention(x, x, x, need_weights=False)[0]


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x.mean(1))


class Embedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).tanh()


class Reaching(nn.Module):
    """Uses the weights of a module without calling it; that module is sharded together with another one."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = Embedding()
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.embedding(x).mean(1), self.head.weight, self.head.bias)


def transformer() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(Embedding(), Attention(), Attention(), Head()).eval()


def convolutions() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(20, CLASSES)]
    return nn.Sequential(*layers).eval()


def shard(model: nn.Module) -> nn.Module:
    mesh = mesh_of()
    for layer in model.children():
        if any(True for _ in layer.parameters()):
            fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "transformer": (transformer, (4, 5)),
    "convolutions": (convolutions, (2, 4, 4)),
}


def summed_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, reduction="none")


def check_equals_whole(kind: str, reduction: str) -> None:
    make, shape = MODELS[kind]
    inputs, targets = randn(SAMPLES, *shape), torch.arange(SAMPLES) % CLASSES
    rank, ranks = dist.get_rank(), dist.get_world_size()
    ends = [SAMPLES * r // ranks for r in range(ranks + 1)]
    rows = slice(ends[rank], ends[rank + 1])  # uneven: some ranks have no sample left in the last round
    model = shard(make())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = {name: p.to_local().clone() for name, p in model.named_parameters()}
    settings = {"loss": summed_loss, "reduction": reduction, "with_gradient": True}
    computed = distributed.fisher_diagonal(model, inputs[rows], targets[rows], **settings)
    expected = fastforget.fisher_diagonal(make(), inputs, targets, **settings)
    assert (computed.samples, computed.reduction) == (SAMPLES, reduction)
    assert computed.definition == expected.definition
    assert_close(computed.losses, expected.losses, 1e-6)
    assert computed.gradient is not None
    assert expected.gradient is not None
    for values, wanted in ((computed, expected), (computed.gradient, expected.gradient)):
        for name, value in values.items():
            assert isinstance(value, DTensor)
            assert_close(value.full_tensor(), wanted[name], 1e-6, name)
            assert_same_bits(value.to_local(), part(value.full_tensor(), mesh_of(), [Shard(0)]))
    for name, parameter in model.named_parameters():
        assert_same_bits(parameter.to_local(), before[name])
        assert_same_bits(parameter.grad.to_local(), torch.ones_like(before[name]))
        assert not parameter._backward_hooks
    assert not any(module._forward_pre_hooks for module in model.modules() if not hasattr(module, "reshard"))
    (model(inputs[:1]) ** 2).sum().backward()  # gradients are no longer squared
    whole = make()
    (whole(inputs[:1]) ** 2).sum().backward()
    for name, parameter in whole.named_parameters():
        assert_close(model.get_parameter(name).grad.full_tensor() - 1, parameter.grad, 1e-5, name)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_equals_the_whole_model(ranks: Ranks, kind: str, reduction: str) -> None:
    ranks.run(check_equals_whole, kind, reduction)


def check_faults() -> None:
    inputs, targets = randn(2, 2, 4, 4), torch.tensor([0, 1])
    model = shard(convolutions())
    last = dist.get_rank() == dist.get_world_size() - 1
    bad = inputs.clone()
    bad[1, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="`inputs` must be finite, got NaN"):
        distributed.fisher_diagonal(model, bad if last else inputs, targets)
    with pytest.raises(ValueError, match='`reduction` must be "mean" or "sum", got \'max\''):
        distributed.fisher_diagonal(model, inputs, targets, reduction="max")
    with pytest.raises(ValueError, match="`loss` must be finite, got NaN or infinity"):
        distributed.fisher_diagonal(model, inputs, targets, loss=lambda o, _: o.sum(1) * (float("inf") if last else 1))
    with pytest.raises(ValueError, match=r"parameter `0.weight` must be sharded by fully_shard, got a plain tensor"):
        distributed.fisher_diagonal(convolutions(), inputs, targets)
    with pytest.raises(
        NotImplementedError, match=r"parameter `0.weight` must be float32 or float64, got torch.bfloat16"
    ):
        distributed.fisher_diagonal(shard(convolutions().bfloat16()), inputs.bfloat16(), targets)
    mixed = nn.Sequential(nn.Flatten(), nn.Linear(32, CLASSES)).eval()
    fully_shard(mixed, mesh=mesh_of(), mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16))
    with pytest.raises(NotImplementedError, match=r"`1.weight` must be gathered in float32 or float64, got torch.b"):
        distributed.fisher_diagonal(mixed, inputs, targets)
    mixed(inputs).sum().backward()  # still works
    with pytest.raises(ValueError, match="`model` must be in eval mode"):
        distributed.fisher_diagonal(shard(convolutions()).train(), inputs, targets)
    assert distributed.fisher_diagonal(model, inputs, targets).samples == 2 * dist.get_world_size()


def test_faults_are_errors_on_all_ranks(ranks: Ranks) -> None:
    ranks.run(check_faults)


def check_reaching() -> None:
    model = Reaching().eval()
    fully_shard([model.embedding, model.head], mesh=mesh_of())
    fully_shard(model, mesh=mesh_of())
    with pytest.raises(NotImplementedError, match=r"parameter `head.weight` must be used by its own module, or by one"):
        distributed.fisher_diagonal(model, randn(2, 4, 5), torch.tensor([0, 1]))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_parameter_that_is_used_from_elsewhere(ranks: Ranks) -> None:
    ranks.run(check_reaching)
