"""What torch.compile does for engines, and what it must not do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from fastforget.classifier.inputs import Inputs
from fastforget.classifier.running import forward
from fastforget.serving.engines.engine import Predictor

__all__ = ["check_no_cuda_graphs", "compile_frozen"]


def check_no_cuda_graphs(predictor: Any, model: nn.Module) -> None:
    """Check that torch.compile makes no CUDA graphs of its own: the next prediction would write over their outputs.

    Args:
        predictor: What may have come from torch.compile.
        model: The module that it runs.

    Raises:
        ValueError: It makes them.
    """
    config = getattr(predictor, "__dict__", {}).get("get_compiler_config")
    settings = config() if callable(config) else None  # of other backends it may be anything
    graphs = isinstance(settings, Mapping) and settings.get("triton.cudagraphs")
    if graphs and any(parameter.is_cuda for parameter in model.parameters()):
        raise ValueError(
            "torch.compile must not make CUDA graphs, as it does with mode='reduce-overhead' and 'max-autotune': "
            "predictions would return memory that the next one writes; compile without and use "
            "fastforget.serving.engines.CUDAGraphs(example, build=torch.compile)"
        )


def compile_frozen(model: nn.Module, inputs: Inputs, **settings: Any) -> Predictor:
    """Compile a module with its weights as constants, for `Rebuilt`.

    ``torch.compile`` makes constants of them under ``torch._inductor.config.freezing``, when the compiled module first
    runs without gradients: all of that is done here. For inputs of other sizes it may compile again, then with the
    weights where they lie, which is slower and as right; ``dynamic=True`` avoids it. PyTorch keeps what it compiled,
    constants included, until the process ends.

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
        compiled: Predictor = torch.compile(run, **settings)
        forward(compiled, inputs)
    return compiled
