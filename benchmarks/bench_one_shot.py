"""Forgetting a class end to end on a CIFAR ResNet-18 with ten codes: against what it is made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import resnet18_cifar
from torch import nn

import fastforget


@pytest.fixture(scope="module")
def case() -> tuple[nn.Module, fastforget.MnemonicCodes]:
    """A network that knows its codes: the head is fitted to them, which takes seconds instead of an hour."""
    torch.manual_seed(0)
    model, codes = resnet18_cifar(), fastforget.MnemonicCodes.generate(10, (3, 32, 32))
    body, head = model[:-1], model[-1]
    with torch.no_grad():
        features = body(codes.inputs)
    optimiser = torch.optim.Adam(head.parameters(), lr=0.05)
    for _ in range(500):
        optimiser.zero_grad()
        F.cross_entropy(head(features), codes.labels).backward()
        optimiser.step()
    return model, codes


def test_the_class_is_forgotten(case: tuple[nn.Module, fastforget.MnemonicCodes]) -> None:
    """Checked before anything is timed."""
    model, codes = case
    before = fastforget.fingerprint(model)
    receipt = fastforget.one_shot(model, codes, 3)
    assert model(codes.inputs).argmax(1)[3] != 3
    receipt.revert(model)
    assert fastforget.fingerprint(model) == before


def test_forward_backward(case: tuple[nn.Module, fastforget.MnemonicCodes], timed: Callable[..., Any]) -> None:
    model, codes = case
    parameters = list(model.parameters())

    def run() -> None:
        torch.autograd.grad(F.cross_entropy(model(codes.inputs), codes.labels), parameters)

    timed(run, "one-shot resnet18-cifar, 10 codes")


@pytest.mark.parametrize("rule", ["natural", "paper"])
def test_one_shot(case: tuple[nn.Module, fastforget.MnemonicCodes], rule: str, timed: Callable[..., Any]) -> None:
    model, codes = case
    phases: dict[str, float] = {}

    def run() -> None:
        receipt = fastforget.one_shot(model, codes, 3, rule=rule)
        phases.update(receipt.seconds)
        receipt.revert(model)

    timed(run, "one-shot resnet18-cifar, 10 codes", note="with revert", phases=phases)
