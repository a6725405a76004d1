"""Embedding tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor

from fastforget import ops
from fastforget.capture.uses.use import Lookup, Sums, make_use, rows_of

if TYPE_CHECKING:
    from fastforget.capture.mode import Capture


def _embedding(
    capture: Capture, func: Any, input: Any, weight: Any, padding_idx: int | None = None, max_norm: Any = None,
    norm_type: float = 2.0, scale_grad_by_freq: bool = False, sparse: bool = False,
) -> Any:  # fmt: skip
    layout = capture.layout(input)
    if not capture.parameter(weight) or max_norm is not None or scale_grad_by_freq:
        return NotImplemented
    padding = -1 if padding_idx is None else padding_idx % weight.shape[0]
    if capture.state(input) is None:
        # Still with its gradient: only a sum that knows the lookup takes it over (see broadcast.py).
        rows = func(input, weight, padding_idx)
        return capture.remember(rows, Lookup(weight, input, padding, rows._version))  # noqa: SLF001
    if layout is None:
        return NotImplemented

    def accumulate(grad: Tensor, operands: Sequence[Tensor], weights: Tensor, sums: Sums) -> None:
        tokens = rows_of(operands[0].unsqueeze(-1), layout, capture.samples).squeeze(-1)
        rows = rows_of(grad, layout, capture.samples)
        ops.fisher_embedding(rows, tokens.long().contiguous(), weights, padding, sums.fisher, sums.gradient)

    use = make_use(capture, weight, accumulate, input)
    return capture.tap(func(input, weight.detach(), padding_idx), layout, [use])


RECOGNISERS: dict[Any, Callable[..., Any]] = {
    F.embedding: _embedding,
}
