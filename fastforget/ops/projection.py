"""Projection of conflicting gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastforget.ops.library import check_not_empty, operators, register_fake

__all__ = ["project", "project_combine", "project_gram", "project_weights"]


def project(grads: Sequence[Tensor], order: Tensor, out: Sequence[Tensor], *, per_tensor: bool = False) -> None:
    """Write the sum of the projected gradients: `project_gram`, `project_weights` and `project_combine` in one call.

    Hundreds of small tensors are unpacked and checked once, which takes longer than to work on them.

    Args:
        grads: As for `project_gram`, of as many tasks as ``order`` has rows.
        order: As for `project_weights`.
        out: As for `project_combine`.
        per_tensor: As for `project_gram`.
    """
    check_not_empty("grads", grads)
    operators.project(list(grads), order, per_tensor, list(out))


def project_gram(grads: Sequence[Tensor], tasks: int, *, per_tensor: bool = False) -> Tensor:
    """Return the Gram matrices of K tasks' gradients: ``gram[s, i, j] = <g_i, g_j>``, summed in float64.

    Args:
        grads: K * L contiguous tensors, the L of the first task first. Tensors at the same place in all tasks have one
            shape and dtype: float32, float64, bfloat16 or float16.
        tasks: K.
        per_tensor: Whether each of the L tensors has a matrix of its own (S = L), or all share one (S = 1).

    Returns:
        float64 [S, K, K].
    """
    check_not_empty("grads", grads)
    result: Tensor = operators.project_gram(list(grads), tasks, per_tensor)
    return result


def project_weights(gram: Tensor, order: Tensor) -> Tensor:
    """Return the weights of the original gradients in the sum of the projected ones.

    Gradient i starts with the weights ``e_i``. For j in ``order[i]``, if ``<g_i', g_j> < 0``, it loses
    ``<g_i', g_j> / <g_j, g_j>`` times the original ``g_j``, unless that factor is not finite.

    Args:
        gram: float64 [S, K, K] from `project_gram`.
        order: int64 [K, M]: the tasks off which gradient i is projected, one after the other; -1 stands for no task.

    Returns:
        float64 [S, K].
    """
    result: Tensor = operators.project_weights(gram, order)
    return result


def project_combine(grads: Sequence[Tensor], weights: Tensor, out: Sequence[Tensor]) -> None:
    """Write ``sum_k weights[s, k] * g_k``, summed in float64 and rounded once.

    Args:
        grads: K * L tensors as given to `project_gram`.
        weights: float64 [S, K], S = L for a row per tensor, or 1.
        out: L contiguous tensors with the shapes and dtypes of each task's, written in place. Each may be a gradient
            from its own place in the list; otherwise they share no memory.
    """
    check_not_empty("grads", grads)
    operators.project_combine(list(grads), weights, list(out))


def _fake_project_gram(grads: list[Tensor], tasks: int, per_tensor: bool) -> Tensor:
    scopes = len(grads) // tasks if per_tensor else 1
    return grads[0].new_empty((scopes, tasks, tasks), dtype=torch.float64)


def _fake_project_weights(gram: Tensor, order: Tensor) -> Tensor:
    return gram.new_empty(gram.shape[:2])


def _fake_in_place(*_args: object) -> None:
    """Return nothing: results are written in place."""


register_fake("project", _fake_in_place)
register_fake("project_gram", _fake_project_gram)
register_fake("project_weights", _fake_project_weights)
register_fake("project_combine", _fake_in_place)
