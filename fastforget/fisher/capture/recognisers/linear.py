"""Linear functions: ``F.linear``, products with a matrix, ``addmm``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastforget import ops
from fastforget.fisher.capture.layout import Layout, Rows, rows_by_sample
from fastforget.fisher.capture.use import AccumulateBoth, Sums, Use, add_shift
from fastforget.fisher.capture.watch import Watch
from fastforget.fisher.dtypes import autocast_operand, to_common_dtype

__all__ = ["RECOGNISERS", "linear_uses"]


def _matrix_use(
    watch: Watch,
    weight: Tensor,
    x: Tensor,
    layout: Layout | Rows,
    *,
    transposed: bool,
    bias_use: Use | None = None,
    accumulate_both: AccumulateBoth | None = None,
) -> Use:
    """The use of a matrix [O, I] in ``x @ weight.T``, or if ``transposed`` of [I, O] in ``x @ weight``."""

    def accumulate(grad: Tensor, operands: Sequence[Tensor], weights: Tensor, sums: Sums) -> None:
        g, a = to_common_dtype(*(rows_by_sample(t, layout, watch.samples) for t in (grad, operands[0])))
        rows, columns = (a, g) if transposed else (g, a)
        ops.fisher_linear(rows, columns, weights, sums.fisher, sums.gradient, overwrite=sums.overwrite)

    return watch.use_of(
        weight, accumulate, x, partner=bias_use, accumulate_both=accumulate_both, overwrites=True
    )  # fmt: skip


def _bias_use(watch: Watch, bias: Tensor, layout: Layout | Rows) -> Use:
    """The use of a bias over the last dimension."""

    def accumulate(grad: Tensor, operands: Sequence[Tensor], weights: Tensor, sums: Sums) -> None:
        add_shift(rows_by_sample(grad, layout, watch.samples).unsqueeze(3), weights, sums)

    return watch.use_of(bias, accumulate)


def linear_uses(
    watch: Watch, weight: Any, bias: Any, x: Tensor, layout: Layout | Rows, *, transposed: bool
) -> list[Use]:
    """The use of the matrix, with that of the bias as its partner, or of the one that is a parameter."""

    def accumulate_both(grad: Tensor, operands: Sequence[Tensor], weights: Tensor, sums: Sums, bias_sums: Sums) -> None:
        g, a = to_common_dtype(*(rows_by_sample(t, layout, watch.samples) for t in (grad, operands[0])))
        ops.fisher_linear(
            g, a, weights, sums.fisher, sums.gradient,
            bias_fisher=bias_sums.fisher, bias_gradient=bias_sums.gradient, overwrite=sums.overwrite,
        )  # fmt: skip

    bias_use = _bias_use(watch, bias, layout) if watch.parameter(bias) else None
    if not watch.parameter(weight):
        return [bias_use] if bias_use else []
    both = accumulate_both if bias_use and not transposed and x.shape[-1] > 0 else None
    return [_matrix_use(watch, weight, x, layout, transposed=transposed, bias_use=bias_use, accumulate_both=both)]


def _linear(watch: Watch, func: Any, input: Any, weight: Any, bias: Any = None) -> Any:
    layout = watch.layout_of_features(input)
    if layout is None or weight.dim() != 2:
        return NotImplemented
    if not watch.are_parametric(weight, bias) or (bias is not None and bias.shape != weight.shape[:1]):
        return NotImplemented
    input = autocast_operand(input)  # noqa: A001 - torch's name for it
    uses = linear_uses(watch, weight, bias, input, layout, transposed=False)
    output = func(input, watch.detached(weight), watch.detached(bias))
    return watch.tap(output, layout, uses, fresh=True)


def _matmul(watch: Watch, func: Any, input: Any, other: Any, **kwargs: Any) -> Any:
    layout = watch.layout_of_features(input)
    if kwargs or layout is None or not watch.parameter(other) or other.dim() != 2:
        return NotImplemented
    input = autocast_operand(input)  # noqa: A001
    use = _matrix_use(watch, other, input, layout, transposed=True)
    return watch.tap(func(input, other.detach()), layout, [use], fresh=True)


def _addmm(watch: Watch, func: Any, bias: Any, input: Any, weight: Any, **kwargs: Any) -> Any:
    layout = watch.layout(input)
    if kwargs or layout is None or layout.dim != 0 or not watch.are_parametric(weight, bias):
        return NotImplemented
    if bias.shape != weight.shape[1:]:
        return NotImplemented
    input = autocast_operand(input)  # noqa: A001
    uses = linear_uses(watch, weight, bias, input, layout, transposed=True)
    return watch.tap(func(watch.detached(bias), input, watch.detached(weight)), layout, uses)


RECOGNISERS: dict[Any, Callable[..., Any]] = {
    F.linear: _linear,
    **dict.fromkeys((torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.mm, torch.Tensor.mm), _matmul),
    torch.addmm: _addmm,
}
