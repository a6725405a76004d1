"""Time the Fisher kernels alone, by layer shape, beside PyTorch's summed weight gradient of the same layer.

The summed gradient does the same multiplications and no squares. (It does more where a convolution has padding.)
``GFLOP/s`` counts 2 N T O I for both, as if padding were multiplied.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from verdicts import attempted

from fastforget import ops
from fastforget.ops import reference

PLAIN, OURS = "summed gradient", "fastforget"

# N, T, O and I
LINEARS = {
    "linear ViT-Ti 65x768x192": (32, 65, 768, 192),
    "linear BERT 128x768x768": (8, 128, 768, 768),
    "linear ViT-B 197x768x768": (4, 197, 768, 768),
    "linear ConvNeXt 16x1536x384": (8, 16, 1536, 384),
    "linear ConvNeXt 4x3072x768": (8, 4, 3072, 768),
    "linear MLP 1x1024x1024": (512, 1, 1024, 1024),
}
# N, O, C, height and width, kernel; groups. Stride 1, padding that keeps the size
CONVOLUTIONS = {
    "convolution 64->64 at 32": ((32, 64, 64, 32, 3), 1),
    "convolution 128->128 at 16": ((32, 128, 128, 16, 3), 1),
    "convolution 256->256 at 8": ((32, 256, 256, 8, 3), 1),
    "convolution 512->512 at 4": ((32, 512, 512, 4, 3), 1),
    "convolution 512->512 at 2": ((32, 512, 512, 2, 3), 1),
    "convolution 3->64 at 32": ((32, 64, 3, 32, 3), 1),
    "pointwise 24->144 at 32": ((32, 144, 24, 32, 1), 1),
    "pointwise 96->576 at 8": ((32, 576, 96, 8, 1), 1),
    "depthwise 3x3, 384 at 8": ((32, 384, 384, 8, 3), 384),
    "depthwise 7x7, 96 at 16": ((8, 96, 96, 16, 7), 96),
}
# N, P and B of the scale of a norm over channels
NORMS = {"norm 64 at 32": (32, 64, 1024), "norm 512 at 4": (32, 512, 16)}


CHECKED = 2  # samples on which the result is checked before anything is timed


def run(
    name: str,
    operands: tuple[Tensor, Tensor],
    shape: tuple[int, ...],
    flop: float,
    plain: Callable[[], Any],
    operator: Callable[..., None],
    definition: Callable[..., None],
    compared: Callable[..., None],
) -> None:
    """Check against the definition in float64, then time with and without the gradient.

    ``operator`` and ``definition`` take grad, activations, weights, fisher and gradient.
    """
    fisher, gradient = torch.zeros(2, 1, *shape).unbind(0)
    operator(*(t[:CHECKED] for t in operands), torch.ones(1, CHECKED), fisher, gradient)
    exact = torch.zeros(2, 1, *shape, dtype=torch.float64).unbind(0)
    definition(*(t[:CHECKED].double() for t in operands), torch.ones(1, CHECKED).double(), *exact)
    found = attempted(lambda: {"fisher": fisher, "gradient": gradient}, {"fisher": exact[0], "gradient": exact[1]})
    assert found == "ok", found
    weights = torch.ones(1, len(operands[0]))
    candidates = {
        PLAIN: plain,
        OURS: lambda: operator(*operands, weights, fisher, None),
        "with gradient": lambda: operator(*operands, weights, fisher, gradient),
    }
    compared(f"kernel {name}", candidates, figures={"GFLOP": flop / 1e9})


@pytest.mark.parametrize("name", LINEARS)
def test_linear(name: str, compared: Callable[..., None], smoke: bool) -> None:
    samples, positions, rows, columns = LINEARS[name]
    samples = CHECKED if smoke else samples
    grad, activations = torch.randn(samples, positions, rows), torch.randn(samples, positions, columns)
    flop = 2.0 * samples * positions * rows * columns
    run(
        name,
        (grad, activations),
        (rows, columns),
        flop,
        lambda: grad.flatten(0, 1).t() @ activations.flatten(0, 1),
        ops.fisher_linear,
        reference.fisher_linear,
        compared,
    )


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution(name: str, compared: Callable[..., None], smoke: bool) -> None:
    (samples, rows, channels, size, kernel), groups = CONVOLUTIONS[name]
    samples = CHECKED if smoke else samples
    grad, activations = torch.randn(samples, rows, size, size), torch.randn(samples, channels, size, size)
    shape = (rows, channels // groups, kernel, kernel)
    settings = [1, 1], [kernel // 2, kernel // 2], [1, 1]
    weight = torch.randn(shape)

    def plain() -> Any:
        arguments = (grad, activations, weight, None, *settings, False, [0, 0], groups, [False, True, False])
        return torch.ops.aten.convolution_backward(*arguments)

    def on(module: Any) -> Callable[..., None]:
        return lambda g, a, weights, *results: module.fisher_convolution(g, a, weights, *settings, groups, *results)

    flop = 2.0 * samples * size * size * math.prod(shape)
    run(name, (grad, activations), shape, flop, plain, on(ops), on(reference), compared)


@pytest.mark.parametrize("name", NORMS)
def test_norm(name: str, compared: Callable[..., None], smoke: bool) -> None:
    samples, channels, positions = NORMS[name]
    grad, activations = torch.randn(2, CHECKED if smoke else samples, 1, channels, positions).unbind(0)
    mean, rstd = torch.rand(2, 1, 1, channels).unbind(0)

    def on(module: Any) -> Callable[..., None]:
        def scale(g: Tensor, a: Tensor, weights: Tensor, fisher: Tensor, gradient: Tensor | None) -> None:
            statistics = (t.to(g.dtype).expand(g.shape[:3]) for t in (mean, rstd))
            module.fisher_affine(g, a, *statistics, weights, scale_fisher=fisher, scale_gradient=gradient)

        return scale

    run(
        name,
        (grad, activations),
        (channels,),
        3.0 * grad.numel(),
        lambda: (grad * ((activations - mean.unsqueeze(3)) * rstd.unsqueeze(3))).sum((0, 1, 3)),
        on(ops),
        on(reference),
        compared,
    )
