"""What published code does, with the square per sample: autograd on one sample at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from peers import Fisher, Loss, Method


def prepare(model: nn.Module, loss: Loss) -> Method:
    parameters = dict(model.named_parameters())

    def method(inputs: Any, targets: Tensor) -> Fisher:
        sums = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
        for n in range(len(targets)):
            one = loss(model(inputs[n : n + 1]), targets[n : n + 1]).sum()
            grads = torch.autograd.grad(one, list(parameters.values()), allow_unused=True)
            for total, grad in zip(sums.values(), grads, strict=True):
                if grad is not None:
                    total.addcmul_(grad, grad)
        return {name: value / len(targets) for name, value in sums.items()}

    return method
