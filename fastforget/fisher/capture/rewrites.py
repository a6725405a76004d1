"""Uses of parameters, written with other functions: those that a recogniser knows, or that keep samples apart.

A use that no recogniser takes, such as ``x - p`` or an ``einsum``, is computed in another way, with the same result
but for rounding: as a product of matrices, or with the parameter repeated for each sample, where the gradient arrives
sample by sample. These run under the mode, which sees the functions that they call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree as pytree

from fastforget.fisher.capture.call import tensors_in, writes
from fastforget.fisher.capture.layout import Layout
from fastforget.fisher.capture.recognisers.broadcast import shift_use
from fastforget.fisher.capture.recognisers.recurrent import CELLS
from fastforget.fisher.capture.use import Sums, add_shift
from fastforget.fisher.capture.watch import Watch

__all__ = ["REWRITES"]

_MOST_PRODUCTS = 64


def _for_each_sample(watch: Watch, term: Tensor, layout: Layout, size: int, rank: int) -> Tensor | None:
    """Return a parameter as an activation.

    Args:
        watch: Watches the parameter.
        term: A parameter, or computed from parameters, whose shape is aligned from the right.
        layout: Where the samples shall be.
        size: Of the dimension in which they are.
        rank: The number of dimensions.

    Returns:
        The activation, [..., size, ...]; None if ``term`` is not the same for every sample.
    """
    if term.dim() > rank:
        return None
    dim, samples = layout.dim, watch.samples
    term = term.reshape((1,) * (rank - term.dim()) + tuple(term.shape))
    if term.shape[dim] == 1:
        output = term.detach().expand(*term.shape[:dim], size, *term.shape[dim + 1 :]).clone()
        return watch.tap(output, layout, [shift_use(watch, term, layout, term.shape)])
    if term.shape[dim] != size:
        return None
    split = (-1, samples, layout.inner)
    each = term.detach().unflatten(dim, split)
    if not bool((each == each.narrow(dim + 1, 0, 1)).all()):
        return None
    one = term.unflatten(dim, split).select(dim + 1, 0)

    def accumulate(grad: Tensor, operands: Sequence[Tensor], weights: Tensor, sums: Sums) -> None:
        add_shift(grad.unflatten(dim, split).movedim(dim + 1, 0).reshape(samples, 1, -1, 1), weights, sums)

    return watch.tap(term.detach().clone(), layout, [watch.use_of(one, accumulate)])


def _aligned(watch: Watch, func: Any, *args: Any, **kwargs: Any) -> Any:
    """Functions whose arguments are aligned from the right: element by element, and attention."""
    tensors = tensors_in(args, kwargs)
    rank = max(tensor.dim() for tensor in tensors)
    places: dict[Layout, int] = {}
    for tensor in tensors:
        layout = watch.layout(tensor)
        if layout is not None:
            place = Layout(layout.dim + rank - tensor.dim(), layout.inner)
            places[place] = max(places.get(place, 0), tensor.shape[layout.dim])
    if len(places) != 1 or (writes(func) and watch.parameter(args[0])):
        return NotImplemented
    ((layout, size),) = places.items()
    terms = {id(tensor): tensor for tensor in tensors if watch.parameter(tensor)}
    lifted = {key: _for_each_sample(watch, term, layout, size, rank) for key, term in terms.items()}
    if any(term is None for term in lifted.values()):
        return NotImplemented
    args, kwargs = pytree.tree_map_only(Tensor, lambda t: lifted.get(id(t), t), (args, kwargs))
    return func(*args, **kwargs)


def _expand_as(watch: Watch, func: Any, input: Any, other: Any) -> Any:
    return input.expand(other.shape) if watch.parameter(input) else NotImplemented


def _addcmul(watch: Watch, func: Any, input: Any, tensor1: Any, tensor2: Any, *, value: Any = 1) -> Any:
    return input + (tensor1 * tensor2 if value == 1 else value * (tensor1 * tensor2))


def _prelu(watch: Watch, func: Any, input: Any, weight: Any) -> Any:
    if input.dim() > 1 and weight.numel() > 1:
        weight = weight.view(-1, *(1,) * (input.dim() - 2))
    return torch.where(input > 0, input, input * weight)


def _matmul(watch: Watch, func: Any, input: Any, other: Any, **kwargs: Any) -> Any:
    """A product with a vector, with a matrix on the left, or with a matrix for each entry of a dimension."""
    if kwargs or not isinstance(input, Tensor) or not isinstance(other, Tensor):
        return NotImplemented
    if watch.parameter(input) and watch.layout(other) and min(input.dim(), other.dim()) > 1:
        return torch.matmul(other.mT, input.mT).mT
    layout = watch.layout(input)
    if layout is None or not watch.parameter(other) or input.dim() < 2:
        return NotImplemented
    if other.dim() == 1:
        return torch.matmul(input, other.unsqueeze(1)).squeeze(-1)
    return _matmul_each(watch, input, layout, other) if other.dim() > 2 else NotImplemented


def _matmul_each(watch: Watch, input: Tensor, layout: Layout, other: Tensor) -> Any:
    rank = max(input.dim(), other.dim())
    place, size = Layout(layout.dim + rank - input.dim(), layout.inner), input.shape[layout.dim]
    if other.dim() == 3 and input.dim() >= 3 and input.dim() - 3 != layout.dim and len(other) <= _MOST_PRODUCTS:
        parts = [torch.matmul(input.select(-3, b if input.shape[-3] > 1 else 0), other[b]) for b in range(len(other))]
        return torch.stack(parts, -3)
    lifted = _for_each_sample(watch, other, place, size, rank) if place.dim < rank - 2 else None
    return NotImplemented if lifted is None else torch.matmul(input, lifted)


def _baddbmm(watch: Watch, func: Any, input: Any, batch1: Any, batch2: Any, **kwargs: Any) -> Any:
    return NotImplemented if kwargs else torch.matmul(batch1, batch2) + input


def _einsum(watch: Watch, func: Any, equation: Any, *operands: Any) -> Any:
    if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
        operands = tuple(operands[0])
    if not isinstance(equation, str) or "." in equation or "->" not in equation or len(operands) != 2:
        return NotImplemented
    sides, output = equation.replace(" ", "").split("->")
    letters = sides.split(",")
    which = next((n for n in (0, 1) if watch.parameter(operands[n])), 0)
    term, activation, names, others = operands[which], operands[1 - which], letters[which], letters[1 - which]
    layout = watch.layout(activation)
    if layout is None or any(len(set(word)) != len(word) for word in letters) or not watch.parameter(term):
        return NotImplemented
    size, sample = activation.shape[layout.dim], others[layout.dim]
    if sample in names:
        lifted = _for_each_sample(watch, term, Layout(names.index(sample), layout.inner), size, term.dim())
        return (
            NotImplemented if lifted is None else _product(func, which, (names, others), (lifted, activation), output)
        )
    contracted = [letter for letter in names if letter in others and letter not in output]
    free = [letter for letter in names if letter not in others]
    rows = [letter for letter in others if letter not in names]
    if set(output) == {*free, *rows} and sample in output and contracted:
        matrix = term.permute([names.index(letter) for letter in (*contracted, *free)])
        shape = matrix.shape[len(contracted) :]
        matrix = matrix.reshape(matrix.shape[: len(contracted)].numel(), shape.numel())
        x = activation.permute([others.index(letter) for letter in (*rows, *contracted)]).flatten(len(rows))
        product = torch.matmul(x, matrix)
        product = product.reshape(*product.shape[:-1], *shape)
        order = [*rows, *free]
        return product.permute([order.index(letter) for letter in output])
    lifted = _for_each_sample(watch, term, Layout(0, layout.inner), size, term.dim() + 1)
    if lifted is None:
        return NotImplemented
    return _product(func, which, (sample + names, others), (lifted, activation), output)


def _product(func: Any, which: int, letters: tuple[str, str], operands: tuple[Tensor, Tensor], output: str) -> Tensor:
    """Return the einsum of a term and an activation in their places."""
    first, second = (0, 1) if which == 0 else (1, 0)
    result: Tensor = func(f"{letters[first]},{letters[second]}->{output}", operands[first], operands[second])
    return result


def _members(names: str) -> list[Callable[..., Any]]:
    owners = (torch, torch.Tensor)
    return [getattr(owner, name) for owner in owners for name in names.split() if hasattr(owner, name)]


REWRITES: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys(
        _members(
            "add add_ sub sub_ subtract mul mul_ multiply div div_ divide true_divide pow where lerp maximum minimum "
            "rsub atan2 xlogy logaddexp hypot masked_fill __add__ __radd__ __iadd__ __sub__ __rsub__ __isub__ __mul__ "
            "__rmul__ __imul__ __truediv__ __rtruediv__ __rdiv__ __itruediv__ __pow__ __rpow__"
        ),
        _aligned,
    ),
    F.scaled_dot_product_attention: _aligned,
    Tensor.expand_as: _expand_as,
    **dict.fromkeys(_members("addcmul"), _addcmul),
    **dict.fromkeys((*_members("prelu"), F.prelu), _prelu),
    **dict.fromkeys(_members("matmul mm bmm mv __matmul__"), _matmul),
    **dict.fromkeys(_members("baddbmm"), _baddbmm),
    torch.einsum: _einsum,
    **CELLS,
}
