"""Models that recompute activations in backward."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from asserts import assert_fisher
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointError, checkpoint

from fastforget import fisher_diagonal

INPUTS, TARGETS = torch.randn(5, 5, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0, 1])


class Checkpointed(nn.Module):
    """Equal shapes everywhere: tensors paired wrongly would go unnoticed."""

    def __init__(self, between: Callable[[Tensor], Tensor] = torch.tanh) -> None:
        super().__init__()
        self.first, self.second, self.between = nn.Linear(5, 5), nn.Linear(5, 5), between

    def block(self, x: Tensor) -> Tensor:
        return self.second(self.between(self.first(x)))

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.block, x, use_reentrant=False)


class Distant(Checkpointed):
    """With a use of a parameter that no kernel covers, inside the checkpoint and beside the others."""

    def __init__(self) -> None:
        super().__init__()
        self.points = nn.Parameter(torch.rand(5, 5))

    def block(self, x: Tensor) -> Tensor:
        return torch.cdist(super().block(x), self.points)


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * grad


@pytest.mark.parametrize(
    ("build", "fallback"),
    [
        (Checkpointed, ()),
        (lambda: nn.Sequential(Checkpointed(), Checkpointed()), ()),
        (Distant, ("points",)),
    ],
)
def test_fisher_is_exact(build: Callable[[], nn.Module], fallback: tuple[str, ...]) -> None:
    assert_fisher(build, INPUTS, TARGETS, fallback=fallback)


@pytest.mark.parametrize("square", ["sample", "batch"])
@pytest.mark.parametrize("at", ["start", "middle"])
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_reentrant_checkpoints_are_refused(at: str, square: Any) -> None:
    """PyTorch leaves the parameters in them without a gradient, or raises an error of its own in backward."""

    class Reentrant(Checkpointed):
        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(self.block, x, use_reentrant=True)

    parts = (Reentrant(), nn.Linear(5, 5)) if at == "start" else (nn.Linear(5, 5), Reentrant())
    for samples in (1, 5):
        with pytest.raises(ValueError, match=r"^`model` must not use reentrant activation checkpoints"):
            fisher_diagonal(nn.Sequential(*parts).eval(), INPUTS[:samples], TARGETS[:samples], square=square)


def test_a_part_without_gradients_is_no_checkpoint() -> None:
    class Frozen(Checkpointed):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                x = self.first(x)
            return self.second(x)

    found = fisher_diagonal(Frozen().eval(), INPUTS, TARGETS)
    assert not found["first.weight"].any()
    assert found["second.weight"].all()


def test_some_parameters_only() -> None:
    model = Distant().eval()
    fisher = fisher_diagonal(model, INPUTS, TARGETS, parameters=["points", "second.weight"])
    everything = fisher_diagonal(model, INPUTS, TARGETS)
    assert list(fisher.fallback) == ["points"]
    for name, value in fisher.items():
        torch.testing.assert_close(value, everything[name])


def test_the_users_hooks_are_back_afterwards() -> None:
    packed = []
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: packed.append(t) or t, lambda t: t)
    with hooks:
        fisher_diagonal(Checkpointed().eval(), INPUTS, TARGETS)
        packed.clear()
        (torch.ones(2, requires_grad=True) * torch.ones(2, requires_grad=True)).sum().backward()
        assert packed


def test_what_is_out_of_reach_is_an_error_not_a_wrong_result() -> None:
    with pytest.raises(CheckpointError):
        fisher_diagonal(Checkpointed(Doubled.apply).eval(), INPUTS, TARGETS)
