"""Convolutions and transposed convolutions in one, two and three dimensions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastforget import ops
from fastforget.fisher.capture.layout import Layout
from fastforget.fisher.capture.recognisers.standardised import Convolved, StandardisedUses, standardised_weight
from fastforget.fisher.capture.use import Accumulate, AccumulateBoth, Standardised, Sums, Use, add_shift
from fastforget.fisher.capture.watch import Watch
from fastforget.fisher.dtypes import autocast_operand, to_common_dtype

__all__ = ["RECOGNISERS"]


class _Geometry(NamedTuple):
    """How a convolution moves over its input, with a value per dimension of space; padded with zeros."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def with_frames(self) -> _Geometry:
        """Return the same with a first dimension over frames, each of which is convolved alone."""
        return _Geometry((1, *self.stride), (0, *self.padding), (1, *self.dilation), self.groups)


def _per_dim(value: Any, dims: int) -> tuple[int, ...]:
    return (value,) * dims if isinstance(value, int) else tuple(value) * (dims if len(value) == 1 else 1)


def _split_frames(tensor: Tensor, layout: Layout, samples: int) -> Tensor:
    """View [N * frames, C, *space] as [N, C, frames, *space]: one more dimension for the kernel."""
    split: Tensor = tensor.unflatten(0, (samples, layout.inner)).movedim(1, 2)
    return split


def _weight_kernel(watch: Watch, layout: Layout, geometry: _Geometry, *, transposed: bool) -> AccumulateBoth:
    """Return what adds the squares and gradients of a weight, and of a bias."""

    def accumulate_both(grad: Tensor, operands: Sequence[Tensor], weights: Tensor, sums: Sums, bias_sums: Sums) -> None:
        fisher, gradient, moves = sums.fisher, sums.gradient, geometry
        g, a = to_common_dtype(grad, operands[0])
        if layout.inner > 1:
            g, a = (_split_frames(t, layout, watch.samples) for t in (g, a))
            fisher, gradient = (total if total is None else total.unsqueeze(3) for total in (fisher, gradient))
            moves = geometry.with_frames()
        outputs, inputs = (a, g) if transposed else (g, a)
        ops.fisher_convolution(
            outputs, inputs, weights, *moves, fisher, gradient,
            bias_fisher=bias_sums.fisher, bias_gradient=bias_sums.gradient, overwrite=sums.overwrite,
        )  # fmt: skip

    return accumulate_both


def _without_bias(kernel: AccumulateBoth) -> Accumulate:
    return lambda grad, operands, weights, sums: kernel(grad, operands, weights, sums, Sums(None, None))


def _bias_use(watch: Watch, bias: Any, layout: Layout) -> Use | None:
    def accumulate(grad: Tensor, operands: Sequence[Tensor], weights: Tensor, sums: Sums) -> None:
        planes = grad.flatten(2).unflatten(0, (watch.samples, layout.inner))
        add_shift(planes, weights, sums)

    return watch.use_of(bias, accumulate) if watch.parameter(bias) else None


def _convolution_uses(
    watch: Watch, x: Tensor, layout: Layout, weight: Any, bias: Any, geometry: _Geometry, *, transposed: bool
) -> list[Use]:
    """The use of the weight, with that of the bias as its partner, or of the one that is a parameter."""
    bias_use = _bias_use(watch, bias, layout)
    if not watch.parameter(weight):
        return [bias_use] if bias_use else []
    kernel = _weight_kernel(watch, layout, geometry, transposed=transposed)
    both = kernel if bias_use and not transposed and weight.numel() > 0 else None
    alone = _without_bias(kernel)
    return [watch.use_of(weight, alone, x, partner=bias_use, accumulate_both=both, overwrites=True)]


def _standardised_uses(
    watch: Watch, func: Any, x: Tensor, layout: Layout, weight: Standardised, geometry: _Geometry
) -> StandardisedUses:
    """The uses of what a weight was standardised from."""
    moves, groups = geometry._asdict(), geometry.groups

    def convolve(input: Tensor, weight: Tensor) -> Tensor:
        output: Tensor = func(input, weight, **moves)
        return output

    def patch_sums(input: Tensor) -> Tensor:
        channels: Tensor = input.unflatten(1, (groups, -1)).sum(2)
        if set(weight.raw.shape[2:]) == {1} and set(geometry.stride) == {1} and set(geometry.padding) == {0}:
            return channels
        return convolve(channels, channels.new_ones(groups, 1, *weight.raw.shape[2:]))

    plain = _without_bias(_weight_kernel(watch, layout, geometry, transposed=False))
    return StandardisedUses(watch, weight, Convolved(x, layout, plain, patch_sums, convolve))


def _convolution(
    watch: Watch,
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
    layout = watch.layout_of_planes(input, dims)
    if layout is None or (layout.inner > 1 and dims == 3) or not watch.are_parametric(weight, bias):
        return NotImplemented
    stride, dilation = _per_dim(stride, dims), _per_dim(dilation, dims)
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        # F.pad counts from the last dimension; the odd zero goes behind, as PyTorch does it
        sides = [side for t in reversed(total) for side in (t // 2, t - t // 2)]
        odd = any(t % 2 for t in total)
        input = F.pad(input, sides) if odd else input  # noqa: A001 - torch's name for it
        padding = (0,) * dims if odd else tuple(t // 2 for t in total)
    elif padding == "valid":
        padding = (0,) * dims
    input = autocast_operand(input)  # noqa: A001
    geometry = _Geometry(stride, _per_dim(padding, dims), dilation, groups)
    detached, made_from = (watch.detached(weight), watch.detached(bias)), standardised_weight(watch, weight)
    if made_from is None:
        uses = _convolution_uses(watch, input, layout, weight, bias, geometry, transposed=False)
        return watch.tap(func(input, *detached, **geometry._asdict()), layout, uses)
    standardised = _standardised_uses(watch, func, input, layout, made_from, geometry)
    if bias is None:
        output = watch.tap(func(input, detached[0], **geometry._asdict()), layout, standardised.uses)
        standardised.keep_product(output)
        return output
    # Less the bias, beside which a small product would be lost.
    product = func(input, detached[0], **geometry._asdict())
    standardised.keep_product(product)
    bias_use = _bias_use(watch, bias, layout)
    uses = [*standardised.uses, *([bias_use] if bias_use else [])]
    return watch.tap(product + detached[1].view(-1, *(1,) * dims), layout, uses)


def _transposed_convolution(
    watch: Watch,
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
    layout = watch.layout_of_planes(input, dims)
    if layout is None or (layout.inner > 1 and dims == 3) or not watch.are_parametric(weight, bias):
        return NotImplemented
    input = autocast_operand(input)  # noqa: A001
    geometry = _Geometry(_per_dim(stride, dims), _per_dim(padding, dims), _per_dim(dilation, dims), groups)
    uses = _convolution_uses(watch, input, layout, weight, bias, geometry, transposed=True)
    parameters = (watch.detached(weight), watch.detached(bias))
    output = func(input, *parameters, output_padding=output_padding, **geometry._asdict())
    return watch.tap(output, layout, uses)


RECOGNISERS: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys((torch.conv1d, torch.conv2d, torch.conv3d), _convolution),
    **dict.fromkeys((torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d), _transposed_convolution),
}
