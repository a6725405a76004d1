"""Gradient projection: the gradients of several tasks become one that conflicts with none of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any, Literal, TypeAlias, overload

import torch
from torch import Tensor

from fastforget import ops
from fastforget.classifier.arguments import check_choice
from fastforget.classifier.devices import check_device, has_kernels, upload

__all__ = ["Gradients", "Project", "Scope", "harmonize"]

Project: TypeAlias = Literal["forget", "remain", "both", "none"]
Scope: TypeAlias = Literal["global", "tensor"]
Gradients: TypeAlias = "Tensor | Sequence[Tensor] | Mapping[str, Tensor]"

_IS_META = attrgetter("is_meta")
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
    """Add up the gradients of several tasks, after removing from some of them what conflicts with the others.

    Two gradients conflict if their inner product is negative. Let g_1 = ``forget_grads``, g_2 = ``remain_grads``
    and g_3, …, g_K = ``more_grads``. Some gradients are projected off others, one after the other::

        g_i' = g_i;   for j in order:   if <g_i', g_j> < 0:   g_i' = g_i' - <g_i', g_j> / <g_j, g_j> g_j

    always off the original g_j, and the result is ``sum_i g_i'``. ``project`` says which gradients are projected:

    ========== ==================================================================================
    "forget"   g_1, off all others: forgetting does not work against what is to remain
    "remain"   all others, each off g_1
    "both"     all, each off all others (PCGrad)
    "none"     none: the plain sum
    ========== ==================================================================================

    With two tasks and "forget", <g_1', g_2> >= 0. Inner products and sums are float64, and the result is rounded
    once: without a conflict it is the exact sum, rounded. The bits are the same for any number of threads.

    A gradient that is zero, or has elements that are not finite, conflicts with none. Elements that are not finite
    reach the result as in a plain sum.

    The gradients are read twice and the result is written once, however many projections there are. They are
    never concatenated.

    Source: Yu et al., "Gradient Surgery for Multi-Task Learning", 2020, algorithm 1 ("both"); Huang et al.,
    "Learning to Unlearn", 2024, gradient harmonisation ("forget"). The algorithm draws the order of j at random; here
    it is the order of the tasks unless a ``generator`` is given.

    Args:
        forget_grads: A tensor, list or dict of L tensors of any shapes: float32, float64, bfloat16 or float16.
            Dense tensors are read in place, others are copied.
        remain_grads: The same structure, shapes and dtypes, as for all that follow. Dicts are matched by key.
        *more_grads: Gradients of further tasks.
        project: Which gradients are projected.
        scope: "global": inner products over all tensors together; "tensor": each tensor is projected on its own.
        generator: Draws the order of j anew for each i, as ``torch.randperm(K)``; the same order for every tensor. A
            generator on the CPU draws the same for gradients on any device, and the host does not wait for the device.
        out: Where to put the result, with the structure and shapes of ``forget_grads``. It may be one of the gradients,
            which is then overwritten; otherwise it shares no memory with them.

    Returns:
        The sum in the structure of ``forget_grads``, or ``out`` if that was given.

    Raises:
        TypeError: Gradients are not tensors (an unused parameter has None), or differ in structure.
        ValueError: ``project`` or ``scope`` is unknown; gradients are empty, not floating point or sparse, or differ
            in keys, shapes or dtypes.
        NotImplementedError: The gradients are on a device without kernels.
        RuntimeError: ``out`` overlaps a gradient, but not at the same place in the list.

    Example:
        >>> forget, remain = torch.tensor([-2.0, 1.0]), torch.tensor([1.0, 0.0])
        >>> harmonize(forget, remain)
        tensor([1., 1.])
        >>> harmonize(forget, remain, project="none")
        tensor([-1.,  1.])
    """
    check_choice("project", project, ("forget", "remain", "both", "none"))
    check_choice("scope", scope, ("global", "tensor"))
    named = {"forget_grads": forget_grads, "remain_grads": remain_grads}
    named |= {f"more_grads[{k}]": grads for k, grads in enumerate(more_grads)}
    tasks = [_tensors_of(name, grads, forget_grads) for name, grads in named.items()]
    written = None if out is None else _tensors_of("out", out, forget_grads)
    with torch.no_grad():
        # Not where a generator would have been used before a fault is found, nor where torch.compile looks for itself.
        plain = generator is None and not torch.compiler.is_compiling()
        results = _project_plain(tasks, project, scope, written) if plain else None
        if results is None:
            for name, tensors in zip((*named, "out"), (*tasks, tasks[0] if written is None else written), strict=True):
                _check_tensors(name, tensors, tasks[0], forget_grads)
            results = [torch.empty_like(grad) for grad in tasks[0]] if written is None else written
            _project(tasks, _projection_order(project, len(tasks), generator), scope, results)
    if out is not None:
        return out  # type: ignore[return-value]  # the caller's structure
    if isinstance(forget_grads, Tensor):
        return results[0]
    if isinstance(forget_grads, Mapping):
        return dict(zip(forget_grads, results, strict=True))
    return results


def _project_plain(
    tasks: list[list[Tensor]], project: Project, scope: Scope, written: list[Tensor] | None
) -> list[Tensor] | None:
    """Return the sum of projected gradients where they are as expected: the operators check that they are.

    To look at each of hundreds of small tensors takes Python longer than the operators take.

    Args:
        tasks: Of K tasks, what should be L tensors each.
        project: Which gradients are projected.
        scope: Over what inner products are taken.
        written: Where to put the result; None for new tensors.

    Returns:
        The L results; None where something is not as expected, and nothing was written.
    """
    given, order = list(chain(*tasks, written or ())), _projection_order(project, len(tasks), None)
    try:
        # Where tensors are in several places the operator of a device is called, which says so. With one on the meta
        # device none would be called at all.
        if not has_kernels(given[0]) or any(map(_IS_META, given)):
            return None
        results = list(map(torch.empty_like, tasks[0])) if written is None else written
        _write_projection(given[: len(tasks) * len(results)], order, scope, results)
    except (AttributeError, TypeError, RuntimeError):
        return None
    return results


def _project(tasks: list[list[Tensor]], order: list[list[int]], scope: Scope, results: list[Tensor]) -> None:
    """Write the sum of the projected gradients of K tasks, L tensors each, into L results."""
    operands = [_contiguous(tensors) for tensors in zip(*tasks, results, strict=True)]
    grads = [tensors[k] for k in range(len(tasks)) for tensors, _ in operands]
    _write_projection(grads, order, scope, [tensors[-1] for tensors, _ in operands])
    for result, (tensors, are_copies) in zip(results, operands, strict=True):
        if are_copies:
            result.copy_(tensors[-1])


def _write_projection(grads: list[Tensor], order: list[list[int]], scope: Scope, results: list[Tensor]) -> None:
    """Do this for contiguous tensors: K * L gradients, those of the first task first."""
    tasks = len(order)
    if any(order):
        longest = max(map(len, order))
        steps = upload([row + [-1] * (longest - len(row)) for row in order], results[0].device)
        ops.project(grads, steps, results, per_tensor=scope == "tensor")
    else:
        weights = torch.ones(1, tasks, dtype=torch.float64, device=results[0].device)
        ops.project_combine(grads, weights, results)


def _projection_order(project: Project, tasks: int, generator: torch.Generator | None) -> list[list[int]]:
    """Return for each task the tasks off which it is projected, in order."""

    def is_projected_off(i: int, j: int) -> bool:
        return i != j and {"forget": i == 0, "remain": j == 0, "both": True, "none": False}[project]

    order = []
    for i in range(tasks):
        candidates = range(tasks) if generator is None else _permutation(tasks, generator)
        order.append([j for j in candidates if is_projected_off(i, j)])
    return order


def _permutation(count: int, generator: torch.Generator) -> list[int]:
    drawn: list[int] = torch.randperm(count, generator=generator, device=generator.device).tolist()
    return drawn


def _contiguous(tensors: Sequence[Tensor]) -> tuple[Sequence[Tensor], bool]:
    """Return tensors of one shape as contiguous ones, and whether they are copies.

    Dense tensors with the same strides (all channels-last, for example) become views.
    """
    if all(tensor.is_contiguous() for tensor in tensors):
        return tensors, False
    first = tensors[0]
    dims = sorted(range(first.dim()), key=first.stride, reverse=True)
    views = [tensor.permute(dims) for tensor in tensors]
    if all(view.is_contiguous() for view in views):
        return views, False
    return [tensor.contiguous() for tensor in tensors], True


def _tensors_of(name: str, grads: object, forget_grads: object) -> list[Tensor]:
    """Return what a structure holds, in the order of ``forget_grads``, after checking that it is the same structure."""
    items = _items(name, grads)
    if grads is forget_grads and items:
        return list(items.values())
    expected = _items("forget_grads", forget_grads)
    if _structure(grads) != _structure(forget_grads):
        raise TypeError(f"`{name}` must be {_structure(forget_grads)} like `forget_grads`, got {_structure(grads)}")
    if not items:
        raise ValueError(f"`{name}` must not be empty")
    if items.keys() != expected.keys():
        odd = [f"no {key!r}" for key in expected if key not in items] + [repr(k) for k in items if k not in expected]
        raise ValueError(f"`{name}` must have a tensor for each of `forget_grads` and no other, got {odd[0]}")
    return [items[key] for key in expected]


def _check_tensors(name: str, grads: Sequence[object], wanted: Sequence[Tensor], forget_grads: object) -> None:
    """Check what a structure holds against ``wanted``, what ``forget_grads`` hold."""
    for key, grad, like in zip(_items("forget_grads", forget_grads), grads, wanted, strict=True):
        _check_tensor(f"`{name}`" if isinstance(forget_grads, Tensor) else f"`{name}[{key!r}]`", grad, like)


def _items(name: str, grads: object) -> dict[Any, Any]:
    """Return the entries of a structure by key or position."""
    if isinstance(grads, Tensor):
        return {0: grads}
    if isinstance(grads, Mapping):
        return grads if isinstance(grads, dict) else dict(grads)
    if isinstance(grads, (list, tuple)):
        return dict(enumerate(grads))
    raise TypeError(f"`{name}` must be a tensor, list or dict of tensors, got {type(grads).__name__}")


def _structure(grads: object) -> str:
    return "a tensor" if isinstance(grads, Tensor) else "a dict" if isinstance(grads, Mapping) else "a list"


def _check_tensor(label: str, grad: object, wanted: Tensor) -> None:
    """Check a gradient against that of the first task at the same place, which is checked for itself."""
    if not isinstance(grad, Tensor):
        raise TypeError(f"{label} must be a tensor, got {_describe_other(grad)}")
    if grad is wanted:
        _check_first(label, grad)
    elif grad.shape != wanted.shape or grad.dtype != wanted.dtype or grad.layout != wanted.layout:
        raise ValueError(f"{label} must be like that of `forget_grads`, {_describe(wanted)}, got {_describe(grad)}")
    elif grad.device != wanted.device:
        raise ValueError(f"{label} must be on {wanted.device} like that of `forget_grads`, got {grad.device}")


def _check_first(label: str, grad: Tensor) -> None:
    if grad.layout != torch.strided:
        raise ValueError(f"{label} must be dense, got {grad.layout}")
    if grad.dtype not in _FLOATS:
        raise ValueError(f"{label} must be float32, float64, bfloat16 or float16, got {grad.dtype}")
    check_device(label, grad)


def _describe(grad: Tensor) -> str:
    storage = "" if grad.layout == torch.strided else f"{grad.layout} "
    return f"{storage}{grad.dtype} of shape {tuple(grad.shape)}"


def _describe_other(grad: object) -> str:
    """Name what was given in place of a tensor."""
    if grad is not None:
        return type(grad).__name__
    return "None; where a parameter took no part give zeros, as torch.autograd.grad(..., materialize_grads=True) does"
