"""Whether what predicts says what the eager model says, on example inputs."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fastforget.classifier.inputs import Inputs, tensors_of
from fastforget.classifier.running import forward
from fastforget.serving.engines.engine import Predictor

__all__ = ["OutputComparison", "copy_inputs", "nudge_parameters"]


class OutputComparison:
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
        self.example: Inputs = copy_inputs(example)
        self._tolerance = float(tolerance)

    def outputs(self, predictor: Predictor) -> list[Tensor]:
        """Return the output tensors for the example."""
        with torch.no_grad():
            return tensors_of(forward(predictor, copy_inputs(self.example)))

    def check_distinct(self, one: list[Tensor], other: list[Tensor]) -> None:
        """Raise ValueError if outputs for two models are so near that others could equal both within the tolerance."""
        if self._distance(one, other) < 2:
            raise ValueError("`example` must be inputs whose outputs depend on the weights; they hardly do")

    def check(self, predictor: Predictor, expected: list[Tensor], before: list[Tensor] | None = None) -> None:
        """Check that a predictor gives the expected outputs.

        Args:
            predictor: What to run on the example.
            expected: Outputs of the eager model.
            before: Outputs for the weights before; if it gives these, the error says so.

        Raises:
            ValueError: It gives others, or none.
        """
        if any(bool(values.isnan().any()) for values in expected):
            raise ValueError("`model` must give numbers for the example inputs, got NaN")
        try:
            outputs = self.outputs(predictor)
        except Exception as error:
            raise ValueError(f"the engine must take the example inputs: {error}") from error
        shapes, expected_shapes = _shapes(outputs), _shapes(expected)
        if shapes != expected_shapes:
            raise ValueError(f"outputs must have shapes {expected_shapes}, as those of the eager model, got {shapes}")
        distance = self._distance(outputs, expected)
        if distance <= 1:
            return
        if before is not None and self._distance(outputs, before) <= 1:
            raise ValueError("the engine must run the weights it is given, got the outputs of those from before")
        raise ValueError(
            f"outputs must be those of the eager model within {self._tolerance:g}, got a difference of "
            f"{distance * self._tolerance:.2g}: other weights, or less precise arithmetic (then allow it: `tolerance`)"
        )

    def _distance(self, outputs: list[Tensor], expected: list[Tensor]) -> float:
        """Return the largest difference in units of the tolerance; infinite for NaN."""
        largest = 0.0
        for values, right in zip(outputs, expected, strict=True):
            a, b = values.double().cpu(), right.double().cpu()
            # Equal infinities are no difference: models mask classes with them.
            ratios = torch.where(a == b, 0.0, (a - b).abs() / (self._tolerance * (1 + b.abs())))
            largest = max(largest, float(ratios.nan_to_num(nan=math.inf).max()) if ratios.numel() else 0.0)
        return largest


def copy_inputs(inputs: Inputs) -> Any:
    """Return a copy, since a model may write to its inputs."""
    return pytree.tree_map(lambda value: value.detach().clone() if isinstance(value, Tensor) else value, inputs)


@torch.no_grad()
def nudge_parameters(model: nn.Module) -> None:
    """Make every parameter a little different, in place."""
    generator = torch.Generator().manual_seed(0)
    for parameter in filter(torch.is_floating_point, model.parameters()):
        noise = torch.randn(parameter.shape, generator=generator, device="cpu").to(parameter)
        size = float(parameter.float().square().mean().sqrt()) if parameter.numel() else 0.0
        parameter.add_(noise, alpha=0.1 * size or 0.01)


def _shapes(outputs: list[Tensor]) -> list[tuple[int, ...]]:
    return [tuple(values.shape) for values in outputs]
