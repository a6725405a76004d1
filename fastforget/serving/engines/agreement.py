"""Whether what runs the weights says what the eager model says, on example inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fastforget.batch import Inputs, forward, tensors_of

__all__ = ["Agreement", "Run", "check_no_graphs", "cloned", "disturb"]

Run = Callable[..., Any]


class Agreement:
    """Compares outputs on example inputs.

    Args:
        example: Inputs of the model, a tensor or a tuple or dict of what its forward takes.
        tolerance: How far outputs may be from those of the eager model, absolute and relative to them.

    Attributes:
        example: A copy of the inputs.

    Raises:
        ValueError: ``tolerance`` is not positive.
    """

    def __init__(self, example: Inputs, tolerance: float) -> None:
        if isinstance(tolerance, bool) or not isinstance(tolerance, (int, float)) or not 0 < tolerance < math.inf:
            raise ValueError(f"`tolerance` must be a positive number, got {tolerance!r}")
        self.example = cloned(example)
        self._tolerance = float(tolerance)

    def outputs(self, run: Run) -> list[Tensor]:
        """Return what it says on the example."""
        with torch.no_grad():
            return tensors_of(forward(run, cloned(self.example)))

    def check_apart(self, one: list[Tensor], other: list[Tensor]) -> None:
        """Raise ValueError unless outputs for other weights differ by so much that nothing can agree with both."""
        if self._distance(one, other) < 2:
            raise ValueError("`example` must be inputs whose outputs depend on the weights; they hardly do")

    def check(self, run: Run, expected: list[Tensor], before: list[Tensor] | None = None) -> None:
        """Raise ValueError unless outputs are the expected ones; tells if they are those from before."""
        if any(bool(values.isnan().any()) for values in expected):
            raise ValueError("`model` must give numbers for the example inputs, got NaN")
        try:
            found = self.outputs(run)
        except Exception as error:
            raise ValueError(f"the engine must take the example inputs: {error}") from error
        shapes = [[tuple(values.shape) for values in outputs] for outputs in (found, expected)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"outputs must have shapes {shapes[1]}, as those of the eager model, got {shapes[0]}")
        distance = self._distance(found, expected)
        if distance <= 1:
            return
        if before is not None and self._distance(found, before) <= 1:
            raise ValueError("the engine must run the weights it is given, got the outputs of those from before")
        raise ValueError(
            f"outputs must be those of the eager model within {self._tolerance:g}, got a difference of "
            f"{distance * self._tolerance:.2g}: other weights, or less precise arithmetic (then allow it: `tolerance`)"
        )

    def _distance(self, found: list[Tensor], expected: list[Tensor]) -> float:
        """Return the largest difference in units of the tolerance; infinite for NaN."""
        largest = 0.0
        for values, right in zip(found, expected, strict=True):
            a, b = values.double().cpu(), right.double().cpu()
            # Equal infinities are no difference: models mask classes with them.
            ratios = torch.where(a == b, 0.0, (a - b).abs() / (self._tolerance * (1 + b.abs())))
            largest = max(largest, float(ratios.nan_to_num(nan=math.inf).max()) if ratios.numel() else 0.0)
        return largest


def cloned(inputs: Inputs) -> Any:
    """Return a copy: a model may write to its inputs."""
    return pytree.tree_map(lambda value: value.detach().clone() if isinstance(value, Tensor) else value, inputs)


def check_no_graphs(run: Any, model: nn.Module) -> None:
    """Make sure that torch.compile runs no CUDA graphs of its own, whose outputs lie where the next call's will.

    Args:
        run: What may have come from torch.compile.
        model: The module that it runs.

    Raises:
        ValueError: It does.
    """
    asked = getattr(run, "__dict__", {}).get("get_compiler_config")
    settings = asked() if callable(asked) else None  # of other backends it may be anything
    graphs = isinstance(settings, Mapping) and settings.get("triton.cudagraphs")
    if graphs and any(parameter.is_cuda for parameter in model.parameters()):
        raise ValueError(
            "torch.compile must not make CUDA graphs, as it does with mode='reduce-overhead' and 'max-autotune': "
            "predictions would return memory that the next one writes; compile without and use "
            "fastforget.serving.engines.CUDAGraphs(example, build=torch.compile)"
        )


@torch.no_grad()
def disturb(model: nn.Module) -> None:
    """Make every parameter a little different, in place."""
    generator = torch.Generator().manual_seed(0)
    for parameter in filter(torch.is_floating_point, model.parameters()):
        noise = torch.randn(parameter.shape, generator=generator, device="cpu").to(parameter)
        size = float(parameter.float().square().mean().sqrt()) if parameter.numel() else 0.0
        parameter.add_(noise, alpha=0.1 * size or 0.01)
