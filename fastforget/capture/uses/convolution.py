"""Convolutions and transposed convolutions in one, two and three dimensions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastforget import ops
from fastforget.capture.layout import Layout
from fastforget.capture.uses.use import (
    Sums,
    Use,
    add_shift,
    alike,
    fixed,
    lowered,
    make_use,
    plain_samples,
)

if TYPE_CHECKING:
    from fastforget.capture.mode import Capture


def _tuple(value: Any, dims: int) -> tuple[int, ...]:
    return (value,) * dims if isinstance(value, int) else tuple(value) * (dims if len(value) == 1 else 1)


def _frames(tensor: Tensor, layout: Layout, samples: int) -> Tensor:
    """View [N * frames, C, *space] as [N, C, frames, *space]: one more dimension for the kernel."""
    frames: Tensor = tensor.unflatten(0, (samples, layout.inner)).movedim(1, 2)
    return frames


def _convolution_uses(
    capture: Capture, x: Tensor, layout: Layout, weight: Any, bias: Any, settings: dict[str, Any], *, transposed: bool
) -> list[Use]:
    """The use of a convolution's weight, over an input padded with zeros, with the bias's as its partner."""
    single = layout.inner == 1

    def accumulate(
        grad: Tensor, operands: Sequence[Tensor], weights: Tensor, sums: Sums, bias_sums: Sums | None = None
    ) -> None:
        fisher, gradient = sums.fisher, sums.gradient
        g, a = alike(grad, operands[0])
        stride, padding, dilation = settings["stride"], settings["padding"], settings["dilation"]
        if not single:
            g, a = (_frames(t, layout, capture.samples) for t in (g, a))
            stride, padding, dilation = (1, *stride), (0, *padding), (1, *dilation)
            fisher, gradient = (result if result is None else result.unsqueeze(3) for result in (fisher, gradient))
        first, second = (a, g) if transposed else (g, a)
        ops.fisher_convolution(
            first, second, weights, stride, padding, dilation, settings["groups"], fisher, gradient,
            bias_fisher=bias_sums.fisher if bias_sums else None,
            bias_gradient=bias_sums.gradient if bias_sums else None,
            overwrite=sums.empty,
        )  # fmt: skip

    def accumulate_bias(grad: Tensor, operands: Sequence[Tensor], weights: Tensor, sums: Sums) -> None:
        planes = grad.flatten(2).unflatten(0, (capture.samples, layout.inner))
        add_shift(planes, weights, sums)

    biases = [make_use(capture, bias, accumulate_bias)] if capture.parameter(bias) else []
    if not capture.parameter(weight):
        return biases
    use = make_use(capture, weight, accumulate, x)
    use.overwrites = True
    if biases:
        use.partner = biases[0]
        use.accumulate_both = None if transposed or weight.numel() == 0 else accumulate
    return [use]


def _convolution(
    capture: Capture,
    func: Any,
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    dims = weight.dim() - 2
    layout = plain_samples(capture, input, dims)
    if layout is None or (layout.inner > 1 and dims == 3) or not fixed(capture, weight, bias):
        return NotImplemented
    stride, dilation = _tuple(stride, dims), _tuple(dilation, dims)
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        # F.pad counts from the last dimension; the odd zero goes behind, as PyTorch does it
        sides = [side for t in reversed(total) for side in (t // 2, t - t // 2)]
        odd = any(t % 2 for t in total)
        input = F.pad(input, sides) if odd else input  # noqa: A001 - torch's name for it
        padding = (0,) * dims if odd else tuple(t // 2 for t in total)
    elif padding == "valid":
        padding = (0,) * dims
    input = lowered(input)  # noqa: A001
    settings = {"stride": stride, "padding": _tuple(padding, dims), "dilation": dilation, "groups": groups}
    uses = _convolution_uses(capture, input, layout, weight, bias, settings, transposed=False)
    output = func(input, capture.detached(weight), capture.detached(bias), **settings)
    return capture.tap(output, layout, uses)


def _transposed_convolution(
    capture: Capture,
    func: Any,
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Any:
    dims = weight.dim() - 2
    layout = plain_samples(capture, input, dims)
    if layout is None or (layout.inner > 1 and dims == 3) or not fixed(capture, weight, bias):
        return NotImplemented
    input = lowered(input)  # noqa: A001
    settings: dict[str, Any] = {"groups": groups}
    spatial = {"stride": stride, "padding": padding, "dilation": dilation}
    settings |= {key: _tuple(value, dims) for key, value in spatial.items()}
    uses = _convolution_uses(capture, input, layout, weight, bias, settings, transposed=True)
    output = func(input, capture.detached(weight), capture.detached(bias), output_padding=output_padding, **settings)
    return capture.tap(output, layout, uses)


RECOGNISERS: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys((torch.conv1d, torch.conv2d, torch.conv3d), _convolution),
    **dict.fromkeys((torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d), _transposed_convolution),
}
