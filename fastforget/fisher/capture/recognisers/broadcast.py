"""Sums and products with a parameter that broadcasts, and a parameter repeated for every sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastforget import ops
from fastforget.fisher.capture.layout import Layout, samples_first
from fastforget.fisher.capture.use import Lookup, Sums, Use, add_shift
from fastforget.fisher.capture.watch import Watch
from fastforget.fisher.dtypes import sum_dtype

__all__ = ["RECOGNISERS", "shift_use"]


class _Operands(NamedTuple):
    """The operands of a sum or product: ``term`` is a parameter, or rows looked up in one, and broadcasts."""

    activation: Tensor
    term: Tensor
    layout: Layout  # of the result


def _broadcast_operands(watch: Watch, a: Any, b: Any) -> _Operands | None:
    """Return the operands of a sum or product of an activation and a term that is the same for every sample."""
    activation, term = (a, b) if watch.layout(a) else (b, a)
    layout = watch.layout(activation)
    if layout is None or not (watch.parameter(term) or watch.lookup(term)) or term.numel() == 0:
        return None
    dim = layout.dim + max(0, term.dim() - activation.dim())
    from_last = max(activation.dim(), term.dim()) - dim
    if term.dim() >= from_last and term.shape[term.dim() - from_last] != 1:
        return None  # the term varies along the samples' dimension
    return _Operands(activation, term, Layout(dim, layout.inner))


def _sum_to_shape(tensor: Tensor, layout: Layout, shape: Sequence[int], samples: int) -> Tensor:
    """Sum an activation over everything that a parameter of ``shape`` was broadcast over: [N, 1, P, 1]."""
    sizes = [1] * (tensor.dim() - len(shape)) + list(shape)
    del sizes[layout.dim]  # the parameter does not vary along the samples
    values = samples_first(tensor, layout, samples)
    summed = [1] + [d + 2 for d, size in enumerate(sizes) if size == 1 and values.shape[d + 2] != 1]
    if values.shape[1] > 1 or len(summed) > 1:
        values = values.to(sum_dtype(values.dtype)).sum(summed)
    return values.reshape(samples, 1, -1, 1)


def _lookup_use(watch: Watch, lookup: Lookup, layout: Layout, shape: Sequence[int]) -> Use:
    """The use of a table whose rows, of this shape, are added to an activation."""

    def accumulate(grad: Tensor, operands: Sequence[Tensor], weights: Tensor, sums: Sums) -> None:
        tokens = operands[0].long().reshape(1, -1).expand(watch.samples, -1).contiguous()
        rows = _sum_to_shape(grad, layout, shape, watch.samples).reshape(*tokens.shape, shape[-1])
        ops.fisher_embedding(rows, tokens, weights, lookup.padding, sums.fisher, sums.gradient)

    return watch.use_of(lookup.weight, accumulate, lookup.tokens)


def shift_use(watch: Watch, term: Any, layout: Layout, shape: Sequence[int]) -> Use:
    """The use of a parameter that is added to an activation, or repeated for every sample."""

    def accumulate(grad: Tensor, operands: Sequence[Tensor], weights: Tensor, sums: Sums) -> None:
        add_shift(_sum_to_shape(grad, layout, shape, watch.samples), weights, sums)

    return watch.use_of(term, accumulate)


def _add(watch: Watch, func: Any, input: Any, other: Any, **kwargs: Any) -> Any:
    operands = None if kwargs else _broadcast_operands(watch, input, other)
    if operands is None or (func is torch.Tensor.add_ and operands.term is input):
        return NotImplemented
    _, term, layout = operands
    lookup = watch.lookup(term)
    shape = term.shape
    use = _lookup_use(watch, lookup, layout, shape) if lookup else shift_use(watch, term, layout, shape)
    terms = (t.detach() if t is term else t for t in (input, other))
    before = watch.before_write(input)
    output = watch.tap(func(*terms), layout, [use])
    if func is torch.Tensor.add_:
        watch.record_write(output, before, layout)
    return output


def _mul(watch: Watch, func: Any, input: Any, other: Any, **kwargs: Any) -> Any:
    operands = None if kwargs else _broadcast_operands(watch, input, other)
    if operands is None or not watch.parameter(operands.term):
        return NotImplemented
    activation, factor, layout = operands
    shape = factor.shape

    def accumulate(grad: Tensor, operands: Sequence[Tensor], weights: Tensor, sums: Sums) -> None:
        wide = sum_dtype(grad.dtype)
        product = grad.to(wide) * operands[0].to(wide)
        add_shift(_sum_to_shape(product, layout, shape, watch.samples), weights, sums)

    use = watch.use_of(factor, accumulate, activation)
    return watch.tap(func(*(watch.detached(t) for t in (input, other))), layout, [use])


def _expand(watch: Watch, func: Any, input: Any, *sizes: Any, **kwargs: Any) -> Any:
    """A parameter repeated for every sample, such as a class token: ``token.expand(N, -1, -1)``."""
    if kwargs or not watch.parameter(input):
        return NotImplemented
    output = func(input.detach(), *sizes)
    shape = [1] * (output.dim() - input.dim()) + list(input.shape)
    repeated = [d for d, size in enumerate(shape) if output.shape[d] != size]
    if watch.samples == 1 and not repeated:
        repeated = [0] if shape and shape[0] == 1 else []
    if len(repeated) != 1 or output.shape[repeated[0]] != watch.samples * shape[repeated[0]]:
        return NotImplemented
    (dim,) = repeated
    if shape[dim] == 1:
        layout = Layout(dim)
        return watch.tap(output.clone(), layout, [shift_use(watch, input, layout, shape)])
    layout = Layout(dim, shape[dim])  # repeated as a whole, once for every sample

    def accumulate(grad: Tensor, operands: Sequence[Tensor], weights: Tensor, sums: Sums) -> None:
        each = grad.unflatten(dim, (watch.samples, shape[dim])).movedim(dim, 0)
        add_shift(each.reshape(watch.samples, 1, -1, 1), weights, sums)

    return watch.tap(output.clone(), layout, [watch.use_of(input, accumulate)])


RECOGNISERS: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys((torch.add, torch.Tensor.add, torch.Tensor.add_, torch.Tensor.__radd__), _add),
    **dict.fromkeys((torch.mul, torch.Tensor.mul), _mul),
    **dict.fromkeys((torch.Tensor.expand, torch.Tensor.repeat), _expand),
}
