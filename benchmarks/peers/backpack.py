"""BackPACK: the extension ``SumGradSquared``."""

from __future__ import annotations

import copy
from typing import Any

from backpack import backpack, extend
from backpack.extensions import SumGradSquared
from torch import Tensor, nn

from peers import Fisher, Loss, Method


def prepare(model: nn.Module, loss: Loss) -> Method:
    model = copy.deepcopy(model)
    for layer in model.modules():
        # Its hooks do not bear in-place functions behind the layers: switched off where a module has a switch.
        if hasattr(layer, "inplace"):
            layer.inplace = False
        if next(layer.parameters(recurse=False), None) is not None:
            extend(layer)

    def method(inputs: Any, targets: Tensor) -> Fisher:
        model.zero_grad()
        with backpack(SumGradSquared()):
            loss(model(inputs), targets).sum().backward()
        found = {}
        for name, parameter in model.named_parameters():
            if hasattr(parameter, "sum_grad_squared"):
                found[name] = parameter.sum_grad_squared / len(targets)
                del parameter.sum_grad_squared
        return found

    return method
