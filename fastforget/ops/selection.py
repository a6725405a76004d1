"""Selection: the k largest of a list of tensors, exactly."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastforget.ops.library import check_not_empty, operators, register_fake

__all__ = ["select", "select_histogram", "select_indices", "select_mask"]


def select(scores: Sequence[Tensor], k: int) -> tuple[Tensor, Tensor]:
    """Find the k largest elements of a list of tensors; of equal ones, the first in (tensor, element) order.

    Args:
        scores: L contiguous float32, float64, bfloat16 or float16 tensors of any shapes, without NaN.
        k: How many, 1 <= k <= number of elements.

    Returns:
        ``mask``, int64 [W], with 64 elements in a word, the first in bit 0, and a new word for every tensor; and the
        k-th largest score, 0-d, dtype of the scores. On a CUDA device, if a score is NaN, this threshold is NaN and the
        mask holds any k elements.
    """
    check_not_empty("scores", scores)
    mask, threshold = operators.select(list(scores), k)
    return mask, threshold


def select_histogram(scores: Sequence[Tensor], prefix: int, left: int, shift: int) -> Tensor:
    """Count, for each tensor, the values of one digit of the keys with a given prefix: a step of a radix selection.

    The key of a score is an unsigned integer that sorts as the score does. It is made of the score's bits as float32,
    or float64, with -0 as 0: if the sign bit is 0 it is flipped, else all bits are. NaN of either sign lies beyond the
    infinity of that sign.

    Args:
        scores: L contiguous float32, float64, bfloat16 or float16 tensors of any shapes.
        prefix: The bits of the keys from ``left`` up, as an integer; 0 where there are none.
        left: In [1, 32], or [1, 64] for float64.
        shift: Where the digit begins, at most eleven bits below ``left``.

    Returns:
        int64 [L, 2 ** (left - shift)]: of the keys with this prefix, how many have each value of the bits
        [shift, left).
    """
    check_not_empty("scores", scores)
    counts: Tensor = operators.select_histogram(list(scores), prefix, left, shift)
    return counts


def select_mask(mask: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Return a mask from `select` as bool tensors with the shapes of L others.

    A CUDA device ignores bits beyond the end of a tensor, here and in the operators below.
    """
    return list(operators.select_mask(mask, list(like)))


def select_indices(mask: Tensor, like: Sequence[Tensor], k: int) -> tuple[Tensor, Tensor]:
    """Return a mask from `select` as indices.

    Args:
        mask: From `select`.
        like: L tensors of the shapes of the scores.
        k: As given to `select`. A CUDA device does not count them: if the mask holds more elements, the first k are
            returned; if it holds fewer, the last indices are undefined and not part of ``counts``.

    Returns:
        ``indices`` [k] within each tensor, in (tensor, element) order, int32 unless a tensor has 2**31 elements or
        more; ``counts`` int64 [L], how many of them belong to each tensor.
    """
    indices, counts = operators.select_indices(mask, list(like), k)
    return indices, counts


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


register_fake("select", _fake_select)
register_fake("select_histogram", _fake_select_histogram)
register_fake("select_mask", _fake_select_mask)
register_fake("select_indices", _fake_select_indices)
