"""Products of groups of rows with a matrix each, as experts of a mixture compute them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastforget import ops
from fastforget.fisher.capture.follow_rows import samples_of_rows
from fastforget.fisher.capture.layout import Rows, rows_by_sample
from fastforget.fisher.capture.use import Sums
from fastforget.fisher.capture.watch import Watch
from fastforget.fisher.dtypes import to_common_dtype

__all__ = ["RECOGNISERS"]


def _grouped_product(
    watch: Watch, func: Any, input: Any, weight: Any, offs: Any = None, bias: Any = None, out_dtype: Any = None
) -> Any:
    """Rows [S, I], those up to ``offs[e]`` with matrix e of [E, I, O]."""
    state = watch.layout_of_features(input)
    if state is None or input.dim() != 2 or offs is None or bias is not None or out_dtype is not None:
        return NotImplemented
    watched = watch.parameter(weight)
    if weight.dim() != 3 or watched is None:
        return NotImplemented
    rows = Rows(samples_of_rows(state, len(input), watch.samples, input.device))
    # Of experts that are kept as [E, O, I], a view comes here: its sums would be copied to those of the parameter.
    flipped = weight.transpose(1, 2)
    is_flipped = flipped.shape == watched.leaf.shape and flipped.stride() == watched.leaf.stride()

    def accumulate(grad: Tensor, operands: Sequence[Tensor], weights: Tensor, sums: Sums) -> None:
        x, ends = operands
        start = 0
        for expert, end in enumerate(ends.tolist()):
            if end > start:
                part = rows.of(start, end)
                a, g = to_common_dtype(*(rows_by_sample(t[start:end], part, watch.samples) for t in (x, grad)))
                totals = [total if total is None else total[:, expert] for total in (sums.fisher, sums.gradient)]
                _add(*((g, a) if is_flipped else (a, g)), weights, totals)
            start = end

    use = watch.use_of(watched.leaf if is_flipped else weight, accumulate, input, offs)
    return watch.tap(func(input, watch.detached(weight), offs=offs), state, [use])


def _add(rows: Tensor, columns: Tensor, weights: Tensor, totals: Sequence[Tensor | None]) -> None:
    """Add the sums of one expert, also where those of several groups of weights lie apart."""
    into = [t if t is None or t.is_contiguous() else t.new_zeros(t.shape) for t in totals]
    ops.fisher_linear(rows, columns, weights, into[0], into[1])
    for total, part in zip(totals, into, strict=True):
        if total is not None and part is not None and part is not total:
            total.add_(part)


RECOGNISERS: dict[Any, Callable[..., Any]] = {torch._grouped_mm: _grouped_product}  # noqa: SLF001 - what F.grouped_mm calls
