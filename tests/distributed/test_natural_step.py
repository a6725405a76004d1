"""A class forgotten by a sharded model, against `one_shot` on the whole model."""

import warnings

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from asserts import assert_close, assert_same_bits
from distributed.ranks import Ranks
from distributed.sharding import mesh_of
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard

import fastforget
from fastforget import ForgettingError, MnemonicCodes, ShallowForgettingWarning, UnrecognisedCodesError, distributed

CLASSES = 5
CODES = MnemonicCodes.generate(CLASSES, (12,), per_class=3)


class Scaled(nn.Module):
    """A linear layer, each logit of which is multiplied by a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.factors = nn.Parameter(torch.linspace(0.5, 2.0, CLASSES))
        self.linear = nn.Linear(65, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.factors * self.linear(x)


class Mean(nn.Module):
    """Takes the mean over positions."""

    def forward(self, logits: Tensor) -> Tensor:
        return logits.mean((2, 3))


HEADS = {
    "linear": lambda: [nn.Linear(65, CLASSES)],
    "no bias": lambda: [nn.Linear(65, CLASSES, bias=False)],
    "convolution": lambda: [nn.Unflatten(1, (65, 1, 1)), nn.Conv2d(65, CLASSES, 1), Mean()],
    "scaled": lambda: [Scaled()],
    "normalised": lambda: [nn.Linear(65, CLASSES), nn.LogSoftmax(1)],
}


def network(head: str = "linear") -> nn.Module:
    """Return a trained network that knows its codes, the same on every rank."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 65), nn.ReLU() if head == "no bias" else nn.Tanh(), *HEADS[head]())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=1e-3)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(CODES.inputs), CODES.labels).backward()
        optimizer.step()
    return model.eval()


def shard(model: nn.Module) -> nn.Module:
    mesh = mesh_of()
    for layer in model:
        if next(layer.parameters(), None) is not None:
            fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def shards_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in distributed.local_shards(model).named_parameters()}


def check_equals_whole(head: str, batch_size: int | None, output_row: bool | None) -> None:
    whole, model = network(head), shard(network(head))
    before = shards_of(model)
    expected = fastforget.one_shot(whole, CODES, 1, rho=0.05, output_row=output_row, widen=1.0)
    receipt = distributed.natural_step(model, CODES, 1, rho=0.05, output_row=output_row, batch_size=batch_size)
    assert (receipt.codes, receipt.versions) == (expected.codes, expected.versions)
    assert receipt.claims == expected.claims == (() if output_row is False else ("disconnected",))
    assert receipt.alpha == pytest.approx(expected.alpha, rel=1e-4)
    for name, value in expected.evidence.items():
        if not name.startswith("remain"):
            assert receipt.evidence[name] == pytest.approx(value, abs=1e-4)
    changed = torch.tensor(receipt.changed)
    dist.all_reduce(changed)
    assert int(changed) == expected.changed
    distributed.local_shards(model)  # sharded again
    assert_equal_parameters(model, whole)
    with torch.no_grad():
        predicted = model(CODES.inputs).argmax(1)
        assert torch.equal(predicted, whole(CODES.inputs).argmax(1))
    forget = CODES.labels == 1
    assert not bool((predicted == 1)[forget].any())
    assert bool((predicted == CODES.labels)[~forget].all())
    fastforget.one_shot(whole, CODES, 3, rho=0.05, output_row=output_row, widen=1.0, forgotten=1)
    again = distributed.natural_step(model, CODES, 3, rho=0.05, output_row=output_row, forgotten=1)
    assert_equal_parameters(model, whole)
    assert (receipt.forgotten, again.forgotten) == ((), (1,))
    after = shards_of(model)
    for one in (again, receipt):
        distributed.revert(one, model)
    assert_holds(model, before)
    for one in (receipt, again):
        distributed.apply(one, model)
    assert_holds(model, after)


def assert_equal_parameters(model: nn.Module, whole: nn.Module) -> None:
    for name, parameter in whole.named_parameters():
        assert_close(model.get_parameter(name).full_tensor(), parameter, 1e-5, name)


def assert_holds(model: nn.Module, expected: dict[str, Tensor]) -> None:
    for name, value in shards_of(model).items():
        assert_same_bits(value, expected[name])


@pytest.mark.parametrize(
    ("head", "batch_size", "output_row"),
    [
        ("linear", None, None),
        ("linear", 4, True),
        ("linear", None, False),
        ("no bias", None, None),
        ("convolution", None, None),
    ],
)
def test_equals_one_shot_on_the_whole_model(
    ranks: Ranks, head: str, batch_size: int | None, output_row: bool | None
) -> None:
    ranks.run(check_equals_whole, head, batch_size, output_row)


def check_rows_that_are_not_the_logits() -> None:
    model = shard(network("normalised"))
    before = shards_of(model)
    with pytest.raises(ForgettingError, match="`output_row` needs a linear layer that produces the logits"):
        distributed.natural_step(model, CODES, 1, rho=0.05, output_row=True)
    assert_holds(model, before)
    alone = distributed.natural_step(model, CODES, 1, rho=0.05, output_row=False)
    distributed.revert(alone, model)
    with pytest.warns(ShallowForgettingWarning, match="nothing but the step in the body hides it"):
        receipt = distributed.natural_step(model, CODES, 1, rho=0.05)
    assert receipt.outcome == "neither silenced nor disconnected"
    assert receipt.after == alone.after
    distributed.revert(receipt, model)
    last = dist.get_rank() == dist.get_world_size() - 1
    with warnings.catch_warnings():
        warnings.simplefilter("error" if last else "ignore", ShallowForgettingWarning)
        with pytest.raises(ShallowForgettingWarning if last else RuntimeError, match="is not disconnected"):
            distributed.natural_step(model, CODES, 1, rho=0.05)
    assert_holds(model, before)


def check_factors_of_logits() -> None:
    """They move their own logit alone, as a bias does, but not by the same for all: they stay as they are."""
    model = shard(network("scaled"))
    alone = distributed.natural_step(model, CODES, 1, rho=0.05, output_row=False)
    by_step = shards_of(model)
    distributed.revert(alone, model)
    receipt = distributed.natural_step(model, CODES, 1, rho=0.05, output_row=True)
    assert receipt.evidence["output_depth"] >= receipt.evidence["output_depth_goal"] - 1e-3
    with torch.no_grad():
        logits = model(CODES.inputs)
    own, others = logits[:, 1], logits.index_fill(1, torch.tensor([1]), -torch.inf).logsumexp(1)
    assert float((others - own)[CODES.labels == 1].mean()) == pytest.approx(receipt.evidence["output_depth"], abs=1e-4)
    assert_same_bits(shards_of(model)["2.factors"], by_step["2.factors"])


def test_rows_are_told_by_what_they_do(ranks: Ranks) -> None:
    ranks.run(check_rows_that_are_not_the_logits)
    ranks.run(check_factors_of_logits)


def check_faults() -> None:
    model = shard(network())
    before = shards_of(model)
    last = dist.get_rank() == dist.get_world_size() - 1
    with pytest.raises(ForgettingError, match="no step"):
        distributed.natural_step(model, CODES, 1, rho=0.05, reach=1e-3, output_row=False)
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
    with pytest.raises(TypeError, match="`output_row` must be a bool or None, got int"):
        distributed.natural_step(model, CODES, 1, output_row=1 if last else None)
    with pytest.raises(ValueError, match=r"^`output_depth` must lie in .*, got 0$"):
        distributed.natural_step(model, CODES, 1, output_depth=0)
    assert_holds(model, before)


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
