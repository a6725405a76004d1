"""Opacus: ``grad_sample`` of its wrapper, then squared."""

from __future__ import annotations

import copy
from typing import Any

import torch
from opacus import GradSampleModule
from torch import Tensor, nn

from peers import Fisher, Loss, Method


def prepare(model: nn.Module, loss: Loss) -> Method:
    wrapped = GradSampleModule(copy.deepcopy(model), loss_reduction="sum", strict=False)
    wrapped.train()  # in eval mode it records nothing
    for layer in wrapped.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm | nn.modules.dropout._DropoutNd):  # noqa: SLF001
            layer.eval()

    def method(inputs: Any, targets: Tensor) -> Fisher:
        wrapped.zero_grad()
        loss(wrapped(inputs), targets).sum().backward()
        found = {}
        for name, parameter in wrapped._module.named_parameters():  # noqa: SLF001 - it offers no other way to the names
            per_sample = parameter.grad_sample
            if isinstance(per_sample, list):  # one per backward
                per_sample = torch.stack(per_sample).sum(0)
            if per_sample is not None:
                found[name] = per_sample.square().sum(0) / len(targets)
        wrapped.zero_grad()
        return found

    return method
