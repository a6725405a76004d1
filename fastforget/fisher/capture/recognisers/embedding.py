"""Embedding tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from fastforget import ops
from fastforget.fisher.capture.layout import rows_by_sample
from fastforget.fisher.capture.use import Lookup, Sums
from fastforget.fisher.capture.watch import Watch

__all__ = ["RECOGNISERS"]


def _embedding(
    watch: Watch, func: Any, input: Any, weight: Any, padding_idx: int | None = None, max_norm: Any = None,
    norm_type: float = 2.0, scale_grad_by_freq: bool = False, sparse: bool = False,
) -> Any:  # fmt: skip
    layout = watch.layout(input)
    if not watch.parameter(weight) or max_norm is not None or scale_grad_by_freq:
        return NotImplemented
    padding = -1 if padding_idx is None else padding_idx % weight.shape[0]
    if watch.layout_state(input) is None:
        # The rows keep their gradient: only a sum that knows of the lookup takes it over (see broadcast.py).
        rows = func(input, weight, padding_idx)
        return watch.note_lookup(rows, Lookup(weight, input, padding, rows._version))  # noqa: SLF001
    if layout is None:
        return NotImplemented

    def accumulate(grad: Tensor, operands: Sequence[Tensor], weights: Tensor, sums: Sums) -> None:
        tokens = rows_by_sample(operands[0].unsqueeze(-1), layout, watch.samples).squeeze(-1)
        rows = rows_by_sample(grad, layout, watch.samples)
        ops.fisher_embedding(rows, tokens.long().contiguous(), weights, padding, sums.fisher, sums.gradient)

    use = watch.use_of(weight, accumulate, input)
    return watch.tap(func(input, weight.detach(), padding_idx), layout, [use])


RECOGNISERS: dict[Any, Callable[..., Any]] = {
    F.embedding: _embedding,
}
