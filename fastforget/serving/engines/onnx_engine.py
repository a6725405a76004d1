"""What the engines for ONNX models have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fastforget.classifier.inputs import Inputs
from fastforget.classifier.running import forward
from fastforget.serving.engines.onnx_weights import Array, Place, find_places, load, missing_parameters, patched
from fastforget.serving.engines.swapped import Swapped

__all__ = ["OnnxEngine", "Session"]


@dataclass(frozen=True)
class Session:
    """An ONNX model that is ready to run.

    Attributes:
        content: Its bytes, of which the next one is made.
        names: Of its inputs, in order.
        run: Gives the outputs for inputs by name; can be called from many threads.
    """

    content: bytes
    names: Sequence[str]
    run: Callable[[dict[str, Array]], Sequence[Array]]

    def __call__(self, *args: Any, **kwargs: Any) -> list[Tensor]:
        """Run it on tensors or arrays, in order or by name; the outputs are where the first tensor is."""
        given = dict(zip(self.names, args, strict=False)) | kwargs
        if len(args) + len(kwargs) != len(self.names) or given.keys() != set(self.names):
            raise ValueError(f"inputs must be {list(self.names)}, got {len(args)} in order and {list(kwargs)} by name")
        device = next((value.device for value in given.values() if isinstance(value, Tensor)), torch.device("cpu"))
        outputs = self.run({name: _array(name, value) for name, value in given.items()})
        return [torch.from_numpy(values).to(device) for values in outputs]


class OnnxEngine(Swapped[Session]):
    """Runs an ONNX model: puts the weights of an edit into its initializers and opens it anew.

    Args:
        model: The ONNX model: path, bytes or onnx.ModelProto.
        example: Inputs of the eager model, a tensor or a tuple or dict of tensors.
        tolerance: How far outputs may be from those of the eager model, absolute and relative to them.
    """

    def __init__(self, model: Any, example: Inputs, tolerance: float) -> None:
        super().__init__(example, tolerance)
        self._predictor = self._open(load(model))
        self._places: list[Place] = []
        self._structure = pytree.tree_structure(None)

    @abstractmethod
    def _open(self, content: bytes) -> Session:
        """Make an ONNX model ready to run."""

    def run(self, predictor: Session, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Predict with one session; arguments and result as for the model. Inputs may also be arrays."""
        return pytree.tree_unflatten(super().run(predictor, args, kwargs), self._structure)

    def _adopt(self, model: nn.Module) -> Session:
        places = find_places(self._predictor.content, model)
        missing = self._used_parameters(model, missing_parameters(places, model))
        if missing:
            raise ValueError(
                f"the ONNX model must hold the values of every parameter in an initializer, got none for {missing}: it "
                "is of another model or quantised, or the exporter folded them into others, as it does with BatchNorm; "
                "export with torch.onnx.export(..., dynamo=True, optimize=False)"
            )
        with torch.no_grad():
            leaves, structure = pytree.tree_flatten(forward(model, self._comparison.example))
        strange = [type(leaf).__name__ for leaf in leaves if not isinstance(leaf, Tensor)]
        if strange:
            raise ValueError(f"outputs of the model must be tensors, got {strange[0]} among them")
        self._places, self._structure = places, structure
        return self._predictor

    def _rebuild(self, model: nn.Module) -> Session:
        return self._open(patched(self._predictor.content, self._places, model))


def _array(name: str, value: Any) -> Array:
    if isinstance(value, Tensor):
        return value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        return value
    raise TypeError(f"input `{name}` must be a tensor or an array, got {type(value).__name__}")
