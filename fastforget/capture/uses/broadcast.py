"""Sums and products with a parameter that broadcasts, and a parameter repeated for every sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fastforget import ops
from fastforget.capture.layout import Layout, samples_first
from fastforget.capture.uses.use import (
    Sums,
    add_shift,
    make_use,
    sum_dtype,
)

if TYPE_CHECKING:
    from fastforget.capture.mode import Capture


def _per_sample(tensor: Tensor, layout: Layout, shape: Sequence[int], samples: int) -> Tensor:
    """Sum an activation over everything a parameter of ``shape`` was broadcast over: [N, 1, P, 1]."""
    kept = tensor.dim() - len(shape)
    full = [1] * kept + list(shape)
    del full[layout.dim]  # the parameter does not vary along the samples
    values = samples_first(tensor, layout, samples)
    over = [1] + [d + 2 for d, size in enumerate(full) if size == 1 and values.shape[d + 2] != 1]
    values = values.to(sum_dtype(values.dtype)).sum(over) if values.shape[1] > 1 or len(over) > 1 else values
    return values.reshape(samples, 1, -1, 1)


def _broadcast(capture: Capture, a: Any, b: Any) -> tuple[Tensor, Tensor, Layout] | None:
    """Return (activation, parameter or rows of one, layout of the result) of a sum or product, if it is one."""
    x, p = (a, b) if capture.layout(a) else (b, a)
    layout = capture.layout(x)
    if layout is None or not (capture.parameter(p) or capture.lookup(p)) or p.numel() == 0:
        return None
    dim = layout.dim + max(0, p.dim() - x.dim())
    behind = max(x.dim(), p.dim()) - dim
    if p.dim() >= behind and p.shape[p.dim() - behind] != 1:
        return None  # varies along the samples
    return x, p, Layout(dim, layout.inner)


def _add(capture: Capture, func: Any, input: Any, other: Any, **kwargs: Any) -> Any:
    found = None if kwargs else _broadcast(capture, input, other)
    if found is None or (func is torch.Tensor.add_ and found[1] is input):
        return NotImplemented
    _, term, layout = found
    shape, lookup = term.shape, capture.lookup(term)

    def accumulate(grad: Tensor, operands: Sequence[Tensor], weights: Tensor, sums: Sums) -> None:
        add_shift(_per_sample(grad, layout, shape, capture.samples), weights, sums)

    def accumulate_rows(grad: Tensor, operands: Sequence[Tensor], weights: Tensor, sums: Sums) -> None:
        tokens = operands[0].long().reshape(1, -1).expand(capture.samples, -1).contiguous()
        rows = _per_sample(grad, layout, shape, capture.samples).reshape(*tokens.shape, shape[-1])
        ops.fisher_embedding(rows, tokens, weights, lookup.padding if lookup else -1, sums.fisher, sums.gradient)

    if lookup:
        use = make_use(capture, lookup.weight, accumulate_rows, lookup.tokens)
    else:
        use = make_use(capture, term, accumulate)
    terms = (t.detach() if t is term else t for t in (input, other))
    return capture.tap(func(*terms), layout, [use])


def _mul(capture: Capture, func: Any, input: Any, other: Any, **kwargs: Any) -> Any:
    found = None if kwargs else _broadcast(capture, input, other)
    if found is None or not capture.parameter(found[1]):
        return NotImplemented
    x, parameter, layout = found
    shape = parameter.shape

    def accumulate(grad: Tensor, operands: Sequence[Tensor], weights: Tensor, sums: Sums) -> None:
        wide = sum_dtype(grad.dtype)
        product = grad.to(wide) * operands[0].to(wide)
        add_shift(_per_sample(product, layout, shape, capture.samples), weights, sums)

    use = make_use(capture, parameter, accumulate, x)
    return capture.tap(func(*(capture.detached(t) for t in (input, other))), layout, [use])


def _expand(capture: Capture, func: Any, input: Any, *sizes: Any, **kwargs: Any) -> Any:
    """A parameter repeated for every sample, such as a class token: ``token.expand(N, -1, -1)``."""
    if kwargs or not capture.parameter(input):
        return NotImplemented
    output = func(input.detach(), *sizes)
    shape = [1] * (output.dim() - input.dim()) + list(input.shape)
    grown = [d for d, size in enumerate(shape) if output.shape[d] != size]
    if capture.samples == 1 and not grown:
        grown = [0] if shape and shape[0] == 1 else []
    if len(grown) != 1 or output.shape[grown[0]] != capture.samples or shape[grown[0]] != 1:
        return NotImplemented
    layout = Layout(grown[0])

    def accumulate(grad: Tensor, operands: Sequence[Tensor], weights: Tensor, sums: Sums) -> None:
        add_shift(_per_sample(grad, layout, shape, capture.samples), weights, sums)

    return capture.tap(output.clone(), layout, [make_use(capture, input, accumulate)])


RECOGNISERS: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys((torch.add, torch.Tensor.add, torch.Tensor.add_, torch.Tensor.__radd__), _add),
    **dict.fromkeys((torch.mul, torch.Tensor.mul), _mul),
    **dict.fromkeys((torch.Tensor.expand, torch.Tensor.repeat), _expand),
}
