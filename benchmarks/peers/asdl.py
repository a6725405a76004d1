"""ASDL: the diagonal empirical Fisher, ``SHAPE_DIAG``."""

from __future__ import annotations

import copy
from typing import Any

import asdl
from torch import Tensor, nn

from peers import Fisher, Loss, Method


def prepare(model: nn.Module, loss: Loss) -> Method:
    model = copy.deepcopy(model)
    config = asdl.FisherConfig(fisher_type=asdl.FISHER_EMP, fisher_shapes=[asdl.SHAPE_DIAG])

    def total(outputs: Any, targets: Tensor, *, reduction: str) -> Tensor:
        assert reduction == "sum"  # ASDL insists on an argument of this name, and on this value for the Fisher
        return loss(outputs, targets).sum()

    def method(inputs: Any, targets: Tensor) -> Fisher:
        maker = asdl.get_fisher_maker(model, config)
        outputs = maker.setup_model_call(model, inputs)
        maker.setup_loss_call(total, outputs, targets)
        maker.forward_and_backward(data_size=len(targets))
        found = {}
        for path, layer in model.named_modules():
            diagonal = getattr(getattr(layer, "fisher", None), "diag", None)
            for name, parameter in layer.named_parameters(recurse=False):
                value = getattr(diagonal, name, None)
                if value is not None:
                    found[f"{path}.{name}" if path else name] = value.reshape(parameter.shape)
        return found

    return method
