"""An engine that is built anew for every edit: frozen graphs, traced modules, whatever else takes a module."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from fastforget.batch import Inputs, forward
from fastforget.serving.engines.agreement import Run, check_no_graphs
from fastforget.serving.engines.swapped import Swapped

__all__ = ["Rebuilt", "compile_frozen"]


class Rebuilt(Swapped[Run]):
    """Runs what a function of yours builds from the model: TorchScript, TensorRT, ``torch.compile`` with freezing.

    The function gets a copy of the model for each edit and returns a callable, which may be called from many threads.
    It is run once on the example inputs before it predicts, so that no prediction waits for a compiler. `check` builds
    twice: what runs first, and another to see that it follows edits. The switch assigns an attribute.

    For ``torch.compile`` with freezing there is `compile_frozen`.

    Args:
        build: Takes an eager module in eval mode, which it may keep, and returns what runs it.
        example: Inputs of the model, a tensor or a tuple or dict of what its forward takes. A few samples will do.
        tolerance: How far outputs may be from those of the eager model, absolute and relative to them.

    Raises:
        TypeError: ``build`` is no function.
        ValueError: ``tolerance`` is not positive.

    Example:
        >>> model = nn.Linear(4, 3).eval()
        >>> engine = Rebuilt(lambda copy: torch.fx.symbolic_trace(copy), example=torch.ones(2, 4))
        >>> engine.check(model)
        >>> switch = engine.stage(nn.Linear(4, 3).eval())
        >>> switch()
    """

    def __init__(self, build: Callable[[nn.Module], Run], *, example: Inputs, tolerance: float = 1e-4) -> None:
        if not callable(build):
            raise TypeError(f"`build` must be a function of a module, got {type(build).__name__}")
        super().__init__(example, tolerance)
        self._build = build

    def _first(self, model: nn.Module) -> Run:
        return self._make(model) if self._layout is None else self._running

    def _make(self, model: nn.Module) -> Run:
        made = self._build(copy.deepcopy(model))
        if not callable(made):
            raise ValueError(f"`build` must return what can be called, got {type(made).__name__}")  # noqa: TRY004
        check_no_graphs(made, model)
        return made


def compile_frozen(model: nn.Module, inputs: Inputs, **settings: Any) -> Run:
    """Compile a module with its weights as constants, for `Rebuilt`.

    ``torch.compile`` makes constants of them under ``torch._inductor.config.freezing``, when the compiled module is
    first run, without gradients: all of that is done here. For inputs of other sizes it may compile again, then with
    the weights where they lie, which is slower and as right; ``dynamic=True`` avoids it. PyTorch keeps what it compiled
    until the process ends, constants included.

    Args:
        model: An eager module in eval mode, which is kept.
        inputs: Inputs of the model, a tensor or a tuple or dict of what its forward takes.
        settings: As for ``torch.compile``.

    Returns:
        The compiled function.
    """
    import torch._inductor.config as inductor  # noqa: PLC0415 (takes long to load, and only this needs it)

    def run(*args: Any, **kwargs: Any) -> Any:
        return model(*args, **kwargs)

    # torch.compile counts compilations by code object, and leaves the ninth of one uncompiled.
    run.__code__ = run.__code__.replace()
    with inductor.patch(freezing=True), torch.no_grad():
        compiled: Run = torch.compile(run, **settings)
        forward(compiled, inputs)
    return compiled
