"""Exact global top-k over any collection of tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, overload

from torch import Tensor

from fastforget import ops
from fastforget.classifier.arguments import SHARE, check_number
from fastforget.classifier.devices import check_device

__all__ = ["check_comparable", "check_not_nan", "list_scores", "restructure", "selected_count", "topk_mask"]


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
    tensors = list_scores(scores)
    prepared = _prepare(tensors)
    selected = selected_count(k, sum(score.numel() for score in prepared))
    masks = ops.select_mask(_select(prepared, selected), prepared)
    return restructure([mask.view(tensor.shape) for mask, tensor in zip(masks, tensors, strict=True)], scores)


def list_scores(scores: Any) -> list[Tensor]:
    """Return the tensors of scores in their order.

    Args:
        scores: A tensor, or a list, tuple or dict of them.

    Returns:
        The tensors.

    Raises:
        TypeError: The scores, or some of them, are no tensors.
        ValueError: There is none.
    """
    if isinstance(scores, Tensor):
        return [scores]
    if not isinstance(scores, (Mapping, list, tuple)):
        raise TypeError(f"`scores` must be a tensor, list or dict of tensors, got {type(scores).__name__}")
    tensors = list(scores.values()) if isinstance(scores, Mapping) else list(scores)
    if not tensors:
        raise ValueError("`scores` must not be empty")
    for tensor in tensors:
        if not isinstance(tensor, Tensor):
            raise TypeError(f"`scores` must hold tensors only, got {type(tensor).__name__}")
    return tensors


def restructure(
    masks: list[Tensor], scores: Tensor | Sequence[Tensor] | Mapping[str, Tensor]
) -> Tensor | list[Tensor] | dict[str, Tensor]:
    """Return the masks of `list_scores` in the structure of the scores: a tensor, a list or a dict."""
    if isinstance(scores, Tensor):
        return masks[0]
    return dict(zip(scores, masks, strict=True)) if isinstance(scores, Mapping) else masks


def selected_count(k: float, total: int) -> int:
    """Return how many of ``total`` elements to select, from the argument ``k``: a count or a share.

    Raises:
        TypeError: It is no number.
        ValueError: It is out of range.
    """
    if isinstance(k, bool) or not isinstance(k, (int, float)):
        raise TypeError(f"`k` must be an int or a float, got {type(k).__name__}")
    if isinstance(k, int):
        if not 1 <= k <= total:
            raise ValueError(f"`k` must lie in [1, {total}], got {k}")
        return k
    check_number("`k` as a share", k, SHARE)
    return max(1, math.floor(k * total + 0.5))


def check_comparable(score: Tensor, first: Tensor) -> None:
    """Raise ValueError unless a score can be compared with the first one: floating point, same dtype and device."""
    if not score.is_floating_point():
        raise ValueError(f"`scores` must be floating point, got {score.dtype}")
    if score.dtype != first.dtype or score.device != first.device:
        raise ValueError(
            "`scores` must have one dtype and device, got "
            f"{first.dtype} on {first.device} and {score.dtype} on {score.device}"
        )


def check_not_nan(scores: Sequence[Tensor], cause: Exception | None = None) -> None:
    """Raise ValueError if a score is NaN.

    Args:
        scores: The tensors; they may be empty.
        cause: The error that made it worth a look.

    Raises:
        ValueError: One is NaN.
    """
    for score in scores:
        if score.numel() and bool(score.amax().isnan()):  # the largest of NaN and other values is NaN
            text = f"`scores` must not be NaN, got NaN in a tensor of shape {tuple(score.shape)}"
            raise ValueError(text) from cause


def _prepare(tensors: Sequence[Tensor]) -> list[Tensor]:
    if not any(tensor.numel() for tensor in tensors):
        raise ValueError("`scores` must not be empty")
    for tensor in tensors:
        check_comparable(tensor, tensors[0])
        check_device("`scores`", tensor)
    return [tensor.detach().contiguous() for tensor in tensors]


def _select(scores: Sequence[Tensor], k: int) -> Tensor:
    try:
        mask, threshold = ops.select(scores, k)
    except RuntimeError as error:
        check_not_nan(scores, error)  # `ops.select` found it in its own passes; this says where
        raise
    if math.isnan(threshold.item()):  # a CUDA device does not raise; this is the one time that the host waits for it
        check_not_nan(scores)
    return mask
