"""Per-sample gradients by ``torch.func.vmap`` of ``grad``, a chunk of samples at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from peers import Fisher, Loss, Method

CHUNK, BYTES = 16, 1 << 30  # samples at a time, unless their gradients would take more than this


def prepare(model: nn.Module, loss: Loss) -> Method:
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    buffers = dict(model.named_buffers())
    size = sum(parameter.nbytes for parameter in parameters.values())
    chunk = max(1, min(CHUNK, BYTES // max(1, size)))

    def one(parameters: Fisher, x: Tensor, target: Tensor) -> Tensor:
        return loss(functional_call(model, (parameters, buffers), (x[None],)), target[None]).sum()

    per_sample = vmap(grad(one), in_dims=(None, 0, 0))

    def method(inputs: Any, targets: Tensor) -> Fisher:
        sums = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
        for x, t in zip(inputs.split(chunk), targets.split(chunk), strict=True):
            for name, grads in per_sample(parameters, x, t).items():
                sums[name] += grads.square().sum(0)
        return {name: value / len(targets) for name, value in sums.items()}

    return method
