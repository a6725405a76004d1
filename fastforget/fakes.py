"""What the operators return as far as shapes and types go: for `torch.compile` and meta tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["register"]


def _fake_in_place(*_args: object) -> None:
    return None


def _fake_select(scores: list[Tensor], k: int) -> tuple[Tensor, Tensor]:
    words = sum((score.numel() + 63) // 64 for score in scores)
    return scores[0].new_empty((words,), dtype=torch.int64), scores[0].new_empty(())


def _fake_select_histogram(scores: list[Tensor], prefix: int, left: int, shift: int) -> Tensor:
    return scores[0].new_empty((len(scores), 2 ** (left - shift)), dtype=torch.int64)


def _fake_select_mask(mask: Tensor, like: list[Tensor]) -> list[Tensor]:
    return [mask.new_empty(tensor.shape, dtype=torch.bool) for tensor in like]


def _fake_select_indices(mask: Tensor, like: list[Tensor], k: int) -> tuple[Tensor, Tensor]:
    narrow = all(tensor.numel() < 2**31 for tensor in like)
    return mask.new_empty((k,), dtype=torch.int32 if narrow else torch.int64), mask.new_empty((len(like),))


def _fake_perturb(parameters: list[Tensor], directions: list[Tensor], mask: Tensor, k: int, alpha: float) -> Tensor:
    return parameters[0].new_empty((k,))


def _fake_project_gram(grads: list[Tensor], tasks: int, per_tensor: bool) -> Tensor:
    scopes = len(grads) // tasks if per_tensor else 1
    return grads[0].new_empty((scopes, tasks, tasks), dtype=torch.float64)


def _fake_project_weights(gram: Tensor, order: Tensor) -> Tensor:
    return gram.new_empty(gram.shape[:2])


def _fake_fingerprint(tensors: list[Tensor]) -> Tensor:
    return tensors[0].new_empty((len(tensors), 2), dtype=torch.int64)


_FAKES: dict[str, Callable[..., Any]] = {
    "fisher_linear": _fake_in_place,
    "fisher_convolution": _fake_in_place,
    "fisher_affine": _fake_in_place,
    "fisher_embedding": _fake_in_place,
    "select": _fake_select,
    "select_histogram": _fake_select_histogram,
    "select_mask": _fake_select_mask,
    "select_indices": _fake_select_indices,
    "perturb": _fake_perturb,
    "perturb_undo": _fake_in_place,
    "perturb_write": _fake_in_place,
    "project_gram": _fake_project_gram,
    "project_weights": _fake_project_weights,
    "project_combine": _fake_in_place,
    "fingerprint": _fake_fingerprint,
}


def register() -> None:
    """Make them known; once, after the operators are."""
    for name, fake in _FAKES.items():
        torch.library.register_fake(f"fastforget::{name}", fake)
