"""What the Fisher benchmarks time beside the peers: a plain forward and backward, and ours with its options."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastforget

PLAIN, OURS = "forward+backward", "fastforget"


def plain(model: nn.Module, inputs: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(F.cross_entropy(model(inputs), targets), list(model.parameters()))


def with_gradient(model: nn.Module, inputs: Tensor, targets: Tensor) -> Any:
    return fastforget.fisher_diagonal(model, inputs, targets, with_gradient=True)


def two_groups(model: nn.Module, inputs: Tensor, targets: Tensor) -> Any:
    """Weigh two groups: one sample in ten to forget, the others to remain."""
    forget = torch.arange(len(targets)) % 10 == 0
    return fastforget.fisher_diagonal(model, inputs, targets, weights=torch.stack([forget, ~forget]).float())


METHODS = {
    PLAIN: plain,
    OURS: fastforget.fisher_diagonal,
    "with gradient": with_gradient,
    "two groups": two_groups,
}
