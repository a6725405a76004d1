"""Gradients of several tasks into one that works against none of them: gradient projection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, overload

import torch
from torch import Tensor

from fastforget import ops
from fastforget.model import check_device
from fastforget.waiting import constant

__all__ = ["harmonize"]

Project: TypeAlias = Literal["forget", "remain", "both", "none"]
Scope: TypeAlias = Literal["global", "tensor"]
Gradients: TypeAlias = "Tensor | Sequence[Tensor] | Mapping[str, Tensor]"

_FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@overload
def harmonize(
    forget_grads: Tensor,
    remain_grads: Tensor,
    *more_grads: Tensor,
    project: Project = ...,
    scope: Scope = ...,
    generator: torch.Generator | None = ...,
    out: Tensor | None = ...,
) -> Tensor: ...


@overload
def harmonize(
    forget_grads: Sequence[Tensor],
    remain_grads: Sequence[Tensor],
    *more_grads: Sequence[Tensor],
    project: Project = ...,
    scope: Scope = ...,
    generator: torch.Generator | None = ...,
    out: Sequence[Tensor] | None = ...,
) -> list[Tensor]: ...


@overload
def harmonize(
    forget_grads: Mapping[str, Tensor],
    remain_grads: Mapping[str, Tensor],
    *more_grads: Mapping[str, Tensor],
    project: Project = ...,
    scope: Scope = ...,
    generator: torch.Generator | None = ...,
    out: Mapping[str, Tensor] | None = ...,
) -> dict[str, Tensor]: ...


def harmonize(
    forget_grads: Gradients,
    remain_grads: Gradients,
    *more_grads: Gradients,
    project: Project = "forget",
    scope: Scope = "global",
    generator: torch.Generator | None = None,
    out: Gradients | None = None,
) -> Tensor | list[Tensor] | dict[str, Tensor]:
    """Add the gradients of several tasks up after taking out of some what conflicts with the others.

    Two gradients conflict if their inner product is negative. With g_1 = ``forget_grads``,
    g_2 = ``remain_grads`` and g_3, …, g_K = ``more_grads``, every gradient i that yields is projected off
    others, one after the other::

        g_i' = g_i;   for j in order:   if <g_i', g_j> < 0:   g_i' = g_i' - <g_i', g_j> / <g_j, g_j> g_j

    always off the original g_j, and the result is ``sum_i g_i'``. ``project`` says which yield:

    ========== ==================================================================================
    "forget"   g_1, off all others: no step of forgetting costs what is to remain
    "remain"   all others, each off g_1
    "both"     everyone, off everyone else (PCGrad)
    "none"     no one: the plain sum
    ========== ==================================================================================

    With two tasks and "forget", <g_1', g_2> >= 0. Inner products and sums are float64; the result is rounded
    once, so that without a conflict it is the exact sum, rounded. The same bits come out for any number of
    threads.

    A gradient that is zero, or has elements that are not finite, conflicts with none; such elements reach the
    result as they reach a plain sum.

    The gradients are read twice and the result is written once, however many projections there are. They are
    never concatenated.

    Source: Yu et al., "Gradient Surgery for Multi-Task Learning", 2020, algorithm 1 ("both"); Huang et al.,
    "Learning to Unlearn", 2024, gradient harmonisation ("forget"). The algorithm's random order of j is the
    order of the tasks here, unless a ``generator`` is given.

    Args:
        forget_grads: A tensor, list or dict of L tensors of any shapes: float32, float64, bfloat16 or float16.
            Dense tensors are read where they are, others copied.
        remain_grads: The same structure, shapes and dtypes; so are all that follow. A dict goes by its keys.
        *more_grads: Gradients of further tasks.
        project: Which gradients yield.
        scope: "global": inner products over all tensors together; "tensor": each tensor is projected on its own.
        generator: Draws the order of j anew for each i, as ``torch.randperm(K)``; the same order for every tensor. One
            on the CPU draws the same for gradients on any device, and without a wait for it.
        out: Where to put the result, the structure and shapes of ``forget_grads``. May be one of the gradients,
            which then is overwritten; otherwise shares no memory with them.

    Returns:
        The sum in the structure of ``forget_grads``, or ``out`` if that was given.

    Raises:
        TypeError: Gradients are not tensors (a parameter that took no part has None), or of unequal structure.
        ValueError: An unknown ``project`` or ``scope``; gradients are empty, not floating point, sparse, or of
            unequal keys, shapes or dtypes.
        NotImplementedError: On a device without kernels.
        RuntimeError: ``out`` overlaps a gradient other than at the same place.

    Example:
        >>> forget, remain = torch.tensor([-2.0, 1.0]), torch.tensor([1.0, 0.0])
        >>> harmonize(forget, remain)
        tensor([1., 1.])
        >>> harmonize(forget, remain, project="none")
        tensor([-1.,  1.])
    """
    _check_choice("project", project, ("forget", "remain", "both", "none"))
    _check_choice("scope", scope, ("global", "tensor"))
    named = {"forget_grads": forget_grads, "remain_grads": remain_grads}
    named |= {f"more_grads[{k}]": grads for k, grads in enumerate(more_grads)}
    tasks = [_tensors(name, grads, forget_grads) for name, grads in named.items()]
    if out is None:
        results = [torch.empty_like(grad, requires_grad=False) for grad in tasks[0]]
    else:
        results = _tensors("out", out, forget_grads)
    with torch.no_grad():
        _project(tasks, _order(project, len(tasks), generator), scope, results)
    if out is not None:
        return out  # type: ignore[return-value]  # the caller's structure
    if isinstance(forget_grads, Tensor):
        return results[0]
    if isinstance(forget_grads, Mapping):
        return dict(zip(forget_grads, results, strict=True))
    return results


def _project(tasks: list[list[Tensor]], order: list[list[int]], scope: Scope, results: list[Tensor]) -> None:
    places = [_contiguous(place) for place in zip(*tasks, results, strict=True)]
    grads = [place[k] for k in range(len(tasks)) for place, _ in places]
    written = [place[-1] for place, _ in places]
    if any(order):
        longest = max(map(len, order))
        steps = constant([row + [-1] * (longest - len(row)) for row in order], written[0].device)
        weights = ops.project_weights(ops.project_gram(grads, len(tasks), per_tensor=scope == "tensor"), steps)
    else:
        weights = torch.ones(1, len(tasks), dtype=torch.float64, device=written[0].device)
    ops.project_combine(grads, weights, written)
    for result, (place, copied) in zip(results, places, strict=True):
        if copied:
            result.copy_(place[-1])


def _order(project: Project, tasks: int, generator: torch.Generator | None) -> list[list[int]]:
    """Return for each task the tasks off which it is projected, in order."""

    def yields(i: int, j: int) -> bool:
        return i != j and {"forget": i == 0, "remain": j == 0, "both": True, "none": False}[project]

    order = []
    for i in range(tasks):
        drawn = range(tasks) if generator is None else _permutation(tasks, generator)
        order.append([j for j in drawn if yields(i, j)])
    return order


def _permutation(count: int, generator: torch.Generator) -> list[int]:
    drawn: list[int] = torch.randperm(count, generator=generator, device=generator.device).tolist()
    return drawn


def _contiguous(place: Sequence[Tensor]) -> tuple[Sequence[Tensor], bool]:
    """Return tensors of one shape as contiguous ones, and whether that took copies.

    Dense tensors with the same strides (all channels-last, for example) become views.
    """
    if all(tensor.is_contiguous() for tensor in place):
        return place, False
    first = place[0]
    dims = sorted(range(first.dim()), key=first.stride, reverse=True)
    views = [tensor.permute(dims) for tensor in place]
    if all(view.is_contiguous() for view in views):
        return views, False
    return [tensor.contiguous() for tensor in place], True


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, choices))}, got {value!r}")


def _tensors(name: str, grads: object, like: object) -> list[Tensor]:
    """Return the tensors of a structure, in the order of the first task's, after checking them against those."""
    items, expected = _items(name, grads), _items("forget_grads", like)
    if _kind(grads) != _kind(like):
        raise TypeError(f"`{name}` must be {_kind(like)} like `forget_grads`, got {_kind(grads)}")
    if not items:
        raise ValueError(f"`{name}` must not be empty")
    if items.keys() != expected.keys():
        odd = [f"no {key!r}" for key in expected if key not in items] + [repr(k) for k in items if k not in expected]
        raise ValueError(f"`{name}` must have a tensor for each of `forget_grads` and no other, got {odd[0]}")
    for key, wanted in expected.items():
        grad = items[key]
        if not isinstance(grad, Tensor):
            raise TypeError(f"{_label(name, key, grads)} must be a tensor, got {_absent(grad)}")
        if grad is wanted:
            _check(_label(name, key, grads), grad)
        elif grad.shape != wanted.shape or grad.dtype != wanted.dtype or grad.layout != wanted.layout:
            raise ValueError(
                f"{_label(name, key, grads)} must be like that of `forget_grads`, {_text(wanted)}, got {_text(grad)}"
            )
        elif grad.device != wanted.device:
            raise ValueError(
                f"{_label(name, key, grads)} must be on {wanted.device} like that of `forget_grads`, got {grad.device}"
            )
    return [items[key] for key in expected]


def _items(name: str, grads: object) -> dict[Any, Any]:
    if isinstance(grads, Tensor):
        return {0: grads}
    if isinstance(grads, Mapping):
        return dict(grads)
    if isinstance(grads, (list, tuple)):
        return dict(enumerate(grads))
    raise TypeError(f"`{name}` must be a tensor, list or dict of tensors, got {type(grads).__name__}")


def _kind(grads: object) -> str:
    return "a tensor" if isinstance(grads, Tensor) else "a dict" if isinstance(grads, Mapping) else "a list"


def _label(name: str, key: object, grads: object) -> str:
    return f"`{name}`" if isinstance(grads, Tensor) else f"`{name}[{key!r}]`"


def _absent(grad: object) -> str:
    if grad is not None:
        return type(grad).__name__
    return "None; where a parameter took no part give zeros, as torch.autograd.grad(..., materialize_grads=True) does"


def _check(label: str, grad: Tensor) -> None:
    if grad.layout != torch.strided:
        raise ValueError(f"{label} must be dense, got {grad.layout}")
    if grad.dtype not in _FLOATS:
        raise ValueError(f"{label} must be float32, float64, bfloat16 or float16, got {grad.dtype}")
    check_device(label, grad)


def _text(grad: Tensor) -> str:
    layout = "" if grad.layout == torch.strided else f"{grad.layout} "
    return f"{layout}{grad.dtype} of shape {tuple(grad.shape)}"
