"""nngeometry: ``PMatDiag`` of the per-sample losses."""

from __future__ import annotations

import copy
from typing import Any

from nngeometry.backend import TorchHooksJacobianBackend
from nngeometry.layercollection import LayerCollection
from nngeometry.object import PMatDiag, PVector
from torch import Tensor, nn

from peers import Fisher, Loss, Method


def prepare(model: nn.Module, loss: Loss) -> Method:
    model = copy.deepcopy(model)
    layers = LayerCollection.from_model(model, ignore_unsupported_layers=True)

    def method(inputs: Any, targets: Tensor) -> Fisher:
        backend = TorchHooksJacobianBackend(
            model, layer_collection=layers, function=lambda x, t: loss(model(x), t)[:, None]
        )
        diagonal = PMatDiag(generator=backend, examples=(inputs.detach(), targets)).get_diag()
        found = {}
        for path, tensors in PVector(layers, vector_repr=diagonal).to_dict().items():
            names = [name for name, _ in model.get_submodule(path).named_parameters(prefix=path, recurse=False)]
            found.update(zip(names, tensors, strict=True))
        return found

    return method
