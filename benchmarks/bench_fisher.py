"""Diagonal Fisher of a CIFAR ResNet-18: against plain forward+backward and a batch-1 loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import resnet18_cifar
from torch import Tensor, nn

import fastforget

BATCH = 32


@pytest.fixture(scope="module")
def case() -> tuple[nn.Module, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    inputs = torch.randn(BATCH, 3, 32, 32, generator=generator)
    return resnet18_cifar(), inputs, torch.randint(0, 10, (BATCH,), generator=generator)


def batch_one_loop(model: nn.Module, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """What published code does, with the square per sample."""
    sums = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    for n in range(len(targets)):
        loss = F.cross_entropy(model(inputs[n : n + 1]), targets[n : n + 1])
        for (name, _), grad in zip(
            model.named_parameters(), torch.autograd.grad(loss, list(model.parameters())), strict=True
        ):
            sums[name] += grad.square()
    return {name: value / len(targets) for name, value in sums.items()}


def plain(model: nn.Module, inputs: Tensor, targets: Tensor) -> None:
    torch.autograd.grad(F.cross_entropy(model(inputs), targets), list(model.parameters()))


def test_the_results_agree(case: tuple[nn.Module, Tensor, Tensor]) -> None:
    """Checked before anything is timed."""
    model, inputs, targets = case
    fast, slow = (f(model, inputs[:4], targets[:4]) for f in (fastforget.fisher_diagonal, batch_one_loop))
    for name, value in slow.items():
        assert (fast[name] - value).norm() <= 1e-4 * value.norm(), name


@pytest.mark.parametrize(
    "method",
    [plain, fastforget.fisher_diagonal, batch_one_loop],
    ids=["forward+backward", "fastforget", "batch-1 loop"],
)
def test_fisher(case: tuple[nn.Module, Tensor, Tensor], method: Callable[..., Any], timed: Callable[..., Any]) -> None:
    parameters = sum(p.numel() for p in case[0].parameters())
    timed(lambda: method(*case), f"fisher resnet18-cifar b{BATCH}", parameters=parameters)


def test_fisher_with_gradient(case: tuple[nn.Module, Tensor, Tensor], timed: Callable[..., Any]) -> None:
    timed(lambda: fastforget.fisher_diagonal(*case, with_gradient=True), f"fisher resnet18-cifar b{BATCH}")
