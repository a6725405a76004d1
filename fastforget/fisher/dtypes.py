"""Types of numbers: those that sums are kept in, and those that autocast computes in."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["autocast_operand", "autocasts", "sum_dtype", "to_common_dtype"]

# Where there are kernels and autocast; PyTorch refuses the question for some other devices.
_AUTOCASTING = ("cpu", "cuda")


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the type that sums are kept in: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def autocasts(tensor: Tensor) -> bool:
    """Whether autocast is on for a tensor's device."""
    kind = tensor.device.type
    return kind in _AUTOCASTING and torch.is_autocast_enabled(kind)


def autocast_operand(operand: Tensor) -> Tensor:
    """Return an operand of a product or convolution in the type in which autocast multiplies it.

    The gradient of the weight is computed from this operand. Autocast would cast it itself, but only autograd would
    see that copy.
    """
    if not autocasts(operand) or not operand.is_floating_point() or operand.dtype == torch.float64:
        return operand
    return operand.to(torch.get_autocast_dtype(operand.device.type))


def to_common_dtype(grad: Tensor, operand: Tensor) -> tuple[Tensor, Tensor]:
    """Bring a gradient and an operand to one type: norms under autocast, and sums, leave them different."""
    if grad.dtype == operand.dtype:
        return grad, operand
    common = torch.promote_types(grad.dtype, operand.dtype)
    return grad.to(common), operand.to(common)
