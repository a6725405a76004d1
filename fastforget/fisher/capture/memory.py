"""How views lie in memory."""

from __future__ import annotations

from torch import Tensor

__all__ = ["is_injective", "is_slice"]


def is_slice(view: Tensor, base: Tensor, dim: int) -> bool:
    """Whether a view takes a dimension of its base whole, and slices of the others."""
    same = view.dim() == base.dim() and view.stride() == base.stride() and view.dtype == base.dtype
    return same and view.shape[dim] == base.shape[dim]


def is_injective(view: Tensor) -> bool:
    """Whether no two elements of a view share memory (an expanded view is summed over before the square)."""
    reach = 0
    for stride, size in sorted(zip(view.stride(), view.shape, strict=True)):
        if size > 1 and stride <= reach:
            return False
        reach += stride * (size - 1)
    return True
