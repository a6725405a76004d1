"""What a model does on inputs like an example, recorded as a CUDA graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fastforget.classifier.inputs import Inputs
from fastforget.classifier.modes import fresh_casts
from fastforget.serving.engines.comparison import copy_inputs
from fastforget.serving.engines.cuda_recorder import Recorder
from fastforget.serving.engines.engine import Predictor

__all__ = ["RecordedGraph"]

_COMPARABLE = (bool, int, float, complex, str, bytes, torch.device)  # types whose equal values are interchangeable


class RecordedGraph:
    """Runs a predictor again on inputs like those with which it was recorded.

    Args:
        predictor: What is recorded.
        example: Inputs of the model.
        recorder: Records it.

    Raises:
        ValueError: The predictor cannot be recorded.
    """

    def __init__(self, predictor: Predictor, example: Inputs, recorder: Recorder) -> None:
        own = copy_inputs(example)
        arguments: tuple[Any, ...] = (
            ((), own) if isinstance(own, dict) else ((own,) if isinstance(own, Tensor) else tuple(own), {})
        )
        self._leaves, self._structure = pytree.tree_flatten(arguments)
        args, kwargs = arguments
        self._recorder, self._autocast = recorder, _autocast()
        try:
            with torch.no_grad(), fresh_casts():
                self._replay, outputs = recorder.record(lambda: predictor(*args, **kwargs))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise ValueError(f"`model` must be fit for a CUDA graph: {error}") from error
        self._outputs, self._outputs_structure = pytree.tree_flatten(outputs)

    def accepts(self, leaves: list[Any], structure: pytree.TreeSpec) -> bool:
        """Whether the flattened arguments of a call are like the example, and autocast is as it was then."""
        return (
            structure == self._structure and all(map(_is_like, leaves, self._leaves)) and _autocast() == self._autocast
        )

    @torch.no_grad()
    def __call__(self, leaves: list[Any]) -> Any:
        """Run it on flattened arguments that it accepts."""
        with self._recorder.turn():
            for own, given in zip(self._leaves, leaves, strict=True):
                if isinstance(own, Tensor):
                    own.copy_(given)
            self._replay()
            outputs = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in self._outputs]
        return pytree.tree_unflatten(outputs, self._outputs_structure)

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Run it on the arguments of the model."""
        return self(pytree.tree_leaves((args, kwargs)))


def _is_like(given: Any, own: Any) -> bool:
    """Whether a graph recorded with one value is right for another: tensors may differ in their elements alone."""
    if isinstance(own, Tensor):
        return (
            isinstance(given, Tensor)
            and given.shape == own.shape
            and given.dtype == own.dtype
            and given.device == own.device
        )
    return given is own or (isinstance(own, _COMPARABLE) and type(given) is type(own) and given == own)


def _autocast() -> tuple[bool, torch.dtype]:
    return torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
