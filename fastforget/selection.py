"""Exact global top-k over any collection of tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, overload

from torch import Tensor

from fastforget import ops
from fastforget.model import check_device

__all__ = ["count", "topk_mask"]


@overload
def topk_mask(scores: Tensor, k: float) -> Tensor: ...


@overload
def topk_mask(scores: Sequence[Tensor], k: float) -> list[Tensor]: ...


@overload
def topk_mask(scores: Mapping[str, Tensor], k: float) -> dict[str, Tensor]: ...


def topk_mask(
    scores: Tensor | Sequence[Tensor] | Mapping[str, Tensor], k: float
) -> Tensor | list[Tensor] | dict[str, Tensor]:
    """Mark the k largest scores over all tensors together.

    Exactly k elements are marked; equal scores are taken in (tensor, element) order. The tensors are never
    concatenated.

    Args:
        scores: A tensor, list or dict of float32, float64, bfloat16 or float16 tensors of any shapes, without NaN.
        k: How many: an int in [1, number of elements], or a float share in (0, 1], rounded to at least one.

    Returns:
        Bool masks in the structure of ``scores``.

    Raises:
        TypeError: ``scores`` are not tensors, or ``k`` is not a number.
        ValueError: ``k`` is out of range; scores are empty, NaN, or of mixed dtypes or devices.
        NotImplementedError: The scores are on a device without kernels.

    Example:
        >>> import torch
        >>> topk_mask({"a": torch.tensor([1.0, 3.0]), "b": torch.tensor([2.0])}, 2)
        {'a': tensor([False,  True]), 'b': tensor([True])}
    """
    if isinstance(scores, Tensor):
        tensors = [scores]
    elif isinstance(scores, Mapping):
        tensors = list(scores.values())
    elif isinstance(scores, (list, tuple)):
        tensors = list(scores)
    else:
        raise TypeError(f"`scores` must be a tensor, list or dict of tensors, got {type(scores).__name__}")
    prepared = _prepare(tensors)
    selected = count(k, sum(score.numel() for score in prepared))
    masks = ops.select_mask(_selected(prepared, selected), prepared)
    masks = [mask.view(tensor.shape) for mask, tensor in zip(masks, tensors, strict=True)]
    if isinstance(scores, Tensor):
        return masks[0]
    if isinstance(scores, Mapping):
        return dict(zip(scores, masks, strict=True))
    return masks


def count(k: float, total: int) -> int:
    """Return how many elements of ``total`` a count or share means.

    Raises:
        TypeError: Not a number.
        ValueError: Out of range.
    """
    if isinstance(k, bool) or not isinstance(k, (int, float)):
        raise TypeError(f"`k` must be an int or a float, got {type(k).__name__}")
    if isinstance(k, int):
        if not 1 <= k <= total:
            raise ValueError(f"`k` must lie in [1, {total}], got {k}")
        return k
    if not 0 < k <= 1:
        raise ValueError(f"`k` as a share must lie in (0, 1], got {k}")
    return max(1, math.floor(k * total + 0.5))


def check_alike(score: Tensor, first: Tensor) -> None:
    """Raise ValueError unless scores can be compared with the first ones: floating point, one dtype and device."""
    if not score.is_floating_point():
        raise ValueError(f"`scores` must be floating point, got {score.dtype}")
    if score.dtype != first.dtype or score.device != first.device:
        raise ValueError(
            "`scores` must have one dtype and device, got "
            f"{first.dtype} on {first.device} and {score.dtype} on {score.device}"
        )


def _prepare(tensors: Sequence[Any]) -> list[Tensor]:
    if not tensors or not any(isinstance(t, Tensor) and t.numel() for t in tensors):
        raise ValueError("`scores` must not be empty")
    for tensor in tensors:
        if not isinstance(tensor, Tensor):
            raise TypeError(f"`scores` must hold tensors only, got {type(tensor).__name__}")
        check_alike(tensor, tensors[0])
        check_device("`scores`", tensor)
    return [tensor.detach().contiguous() for tensor in tensors]


def _selected(scores: Sequence[Tensor], k: int) -> Tensor:
    try:
        mask, threshold = ops.select(scores, k)
    except RuntimeError as error:
        _check_nan(scores, error)
        raise
    if math.isnan(threshold.item()):  # a device does not raise; this is the one time that it is waited for
        _check_nan(scores, None)
    return mask


def _check_nan(scores: Sequence[Tensor], error: RuntimeError | None) -> None:
    """Raise if scores are NaN: `ops.select` finds that in its own passes, this one only says where."""
    for tensor in scores:
        if bool(tensor.isnan().any()):
            text = f"`scores` must not be NaN, got NaN in a tensor of shape {tuple(tensor.shape)}"
            raise ValueError(text) from error
