"""An engine that is built anew for every edit: frozen graphs, traced modules, whatever else takes a module."""

from __future__ import annotations

import copy
from collections.abc import Callable

from torch import nn

from fastforget.classifier.inputs import Inputs
from fastforget.serving.engines.engine import Predictor
from fastforget.serving.engines.swapped import Swapped
from fastforget.serving.engines.torch_compile import check_no_cuda_graphs

__all__ = ["Rebuilt"]


class Rebuilt(Swapped[Predictor]):
    """Runs what a function of yours builds from the model: TorchScript, TensorRT, ``torch.compile`` with freezing.

    The function gets a copy of the model for each edit and returns a callable, which may be called from many threads.
    It runs once on the example inputs before it predicts, so that no prediction waits for a compiler. `check` builds
    twice: what runs first, and another one to see that it follows edits. The switch assigns an attribute.

    For ``torch.compile`` with freezing there is `compile_frozen`.

    Args:
        build: Takes an eager module in eval mode, which it may keep, and returns what runs it.
        example: Inputs of the model, a tensor or a tuple or dict of what its forward takes. A few samples will do.
        tolerance: How far outputs may be from those of the eager model, absolute and relative to them.

    Raises:
        TypeError: ``build`` is no function.
        ValueError: ``tolerance`` is not positive.

    Example:
        >>> import torch
        >>> model = nn.Linear(4, 3).eval()
        >>> engine = Rebuilt(lambda copy: torch.fx.symbolic_trace(copy), example=torch.ones(2, 4))
        >>> engine.check(model)
        >>> switch = engine.stage(nn.Linear(4, 3).eval())
        >>> switch()
    """

    def __init__(self, build: Callable[[nn.Module], Predictor], *, example: Inputs, tolerance: float = 1e-4) -> None:
        if not callable(build):
            raise TypeError(f"`build` must be a function of a module, got {type(build).__name__}")
        super().__init__(example, tolerance)
        self._build = build

    def _adopt(self, model: nn.Module) -> Predictor:
        return self._rebuild(model) if self._shapes is None else self._predictor

    def _rebuild(self, model: nn.Module) -> Predictor:
        predictor = self._build(copy.deepcopy(model))
        if not callable(predictor):
            raise ValueError(f"`build` must return what can be called, got {type(predictor).__name__}")  # noqa: TRY004
        check_no_cuda_graphs(predictor, model)
        return predictor
