"""Linear functions: ``F.linear``, products with a matrix, ``addmm``."""

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
    rows_of,
)

if TYPE_CHECKING:
    from fastforget.capture.mode import Capture


def _matmul_use(capture: Capture, weight: Tensor, x: Tensor, layout: Layout, *, swapped: bool) -> Use:
    """The use of a matrix [O, I] in ``x @ weight.T``, or swapped [I, O] in ``x @ weight``."""

    def accumulate(grad: Tensor, operands: Sequence[Tensor], weights: Tensor, sums: Sums) -> None:
        g, a = alike(*(rows_of(t, layout, capture.samples) for t in (grad, operands[0])))
        first, second = (a, g) if swapped else (g, a)
        ops.fisher_linear(first, second, weights, sums.fisher, sums.gradient, overwrite=sums.empty)

    use = make_use(capture, weight, accumulate, x)
    use.overwrites = True
    return use


def _bias_use(capture: Capture, bias: Tensor, layout: Layout) -> Use:
    """The use of a bias over the last dimension."""

    def accumulate(grad: Tensor, operands: Sequence[Tensor], weights: Tensor, sums: Sums) -> None:
        add_shift(rows_of(grad, layout, capture.samples).unsqueeze(3), weights, sums)

    return make_use(capture, bias, accumulate)


def _linear_uses(capture: Capture, weight: Any, bias: Any, x: Tensor, layout: Layout, *, swapped: bool) -> list[Use]:
    """The use of the matrix, with that of the bias as its partner, or of the one that is a parameter."""

    def both(grad: Tensor, operands: Sequence[Tensor], weights: Tensor, sums: Sums, bias_sums: Sums) -> None:
        g, a = alike(*(rows_of(t, layout, capture.samples) for t in (grad, operands[0])))
        ops.fisher_linear(
            g, a, weights, sums.fisher, sums.gradient,
            bias_fisher=bias_sums.fisher, bias_gradient=bias_sums.gradient, overwrite=sums.empty,
        )  # fmt: skip

    biases = [_bias_use(capture, bias, layout)] if capture.parameter(bias) else []
    if not capture.parameter(weight):
        return biases
    use = _matmul_use(capture, weight, x, layout, swapped=swapped)
    if biases:
        use.partner = biases[0]
        use.accumulate_both = None if swapped or x.shape[-1] == 0 else both
    return [use]


def _linear(capture: Capture, func: Any, input: Any, weight: Any, bias: Any = None) -> Any:
    layout = capture.layout(input)
    if layout is None or input.dim() < 2 or layout.dim >= input.dim() - 1 or weight.dim() != 2:
        return NotImplemented
    if not fixed(capture, weight, bias) or (bias is not None and bias.shape != weight.shape[:1]):
        return NotImplemented
    input = lowered(input)  # noqa: A001 - torch's name for it
    uses = _linear_uses(capture, weight, bias, input, layout, swapped=False)
    output = func(input, capture.detached(weight), capture.detached(bias))
    return capture.tap(output, layout, uses, fresh=True)


def _matmul(capture: Capture, func: Any, input: Any, other: Any, **kwargs: Any) -> Any:
    layout = capture.layout(input)
    if kwargs or layout is None or not capture.parameter(other) or other.dim() != 2:
        return NotImplemented
    if input.dim() < 2 or layout.dim >= input.dim() - 1:
        return NotImplemented
    input = lowered(input)  # noqa: A001
    use = _matmul_use(capture, other, input, layout, swapped=True)
    return capture.tap(func(input, other.detach()), layout, [use], fresh=True)


def _addmm(capture: Capture, func: Any, bias: Any, input: Any, weight: Any, **kwargs: Any) -> Any:
    layout = capture.layout(input)
    if kwargs or layout is None or layout.dim != 0 or not fixed(capture, weight, bias):
        return NotImplemented
    if bias.shape != weight.shape[1:]:
        return NotImplemented
    input = lowered(input)  # noqa: A001
    uses = _linear_uses(capture, weight, bias, input, layout, swapped=True)
    return capture.tap(func(capture.detached(bias), input, capture.detached(weight)), layout, uses)


RECOGNISERS: dict[Any, Callable[..., Any]] = {
    F.linear: _linear,
    **dict.fromkeys((torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.mm, torch.Tensor.mm), _matmul),
    torch.addmm: _addmm,
}
