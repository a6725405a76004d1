"""One use of one parameter, and what the recognisers of all functions share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fastforget import ops
from fastforget.capture.layout import Layout, samples_first

if TYPE_CHECKING:
    from fastforget.capture.mode import Capture

__all__ = [
    "Lookup",
    "Sums",
    "Use",
    "add_shift",
    "alike",
    "autocasts",
    "fixed",
    "lowered",
    "make_use",
    "plain_samples",
    "rows_of",
    "sum_dtype",
]


# Where there are kernels and autocast; PyTorch refuses the question for some other devices.
_AUTOCASTING = ("cpu", "cuda")


@dataclass(eq=False)
class Sums:
    """Where the results of one parameter are added up, each [G, *shape of the parameter or of the used part].

    Attributes:
        fisher: Weighted squares, or None.
        gradient: Weighted gradients, or None.
        empty: They hold nothing yet, not even zeros, and are to be written. Only for a use that `overwrites`.
    """

    fisher: Tensor | None
    gradient: Tensor | None
    empty: bool = False

    def flat(self) -> tuple[Tensor | None, Tensor | None]:
        """View both as [G, P]; the shape of a scalar parameter is empty."""
        first, second = (r if r is None else r.view(r.shape[0], -1) for r in (self.fisher, self.gradient))
        return first, second


Accumulate = Callable[[Tensor, Sequence[Tensor], Tensor, Sums], None]


@dataclass(eq=False)
class Use:
    """One use of one parameter.

    Attributes:
        name: The parameter.
        view: Size, stride and offset of the part that is used, or None for all of it.
        operands: Activations the kernel needs, held between forward and backward.
        partner: A use of another parameter that sees the same gradient, such as the shift of a norm beside its scale.
        accumulate_both: ``accumulate_both(grad, operands, weights, sums, partner's sums)`` does both in one pass, if
            there is such a pass and neither parameter has another use.
        accumulate: ``accumulate(grad, operands, weights, sums)`` adds to the sums.
        overwrites: Both of these can write the use's sums instead, which need not be cleared before.
    """

    name: str
    view: tuple[tuple[int, ...], tuple[int, ...], int] | None
    accumulate: Accumulate
    operands: tuple[Tensor, ...] = field(default=())
    partner: Use | None = None
    accumulate_both: Callable[[Tensor, Sequence[Tensor], Tensor, Sums, Sums], None] | None = None
    overwrites: bool = False


@dataclass(eq=False)
class Lookup:
    """Rows of an embedding table at tokens that are the same for every sample, such as positions.

    Attributes:
        weight: The table, a parameter, [V, D].
        tokens: int64, any shape.
        padding: Token without a gradient; -1 for none.
        version: Of the rows when they were looked up; changed in place they are something else.
    """

    weight: Tensor
    tokens: Tensor
    padding: int
    version: int


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the type sums are kept in: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def make_use(capture: Capture, parameter: Any, accumulate: Accumulate, *operands: Tensor) -> Use:
    """Describe the use of a parameter, or of a plain view of one."""
    found = capture.parameter(parameter)
    if found is None:
        raise TypeError("a use must be of a watched parameter")
    name, leaf = found
    view = None
    if parameter is not leaf:
        view = (tuple(parameter.shape), parameter.stride(), parameter.storage_offset() - leaf.storage_offset())
    return Use(name, view, accumulate, operands)


def rows_of(tensor: Tensor, layout: Layout, samples: int) -> Tensor:
    """View activations with features last as [N, T, features]."""
    if layout.dim == 0 and layout.inner == 1 and tensor.dim() == 3 and tensor.shape[0] == samples:
        return tensor  # nothing to rearrange
    rows = samples_first(tensor, layout, samples)
    return rows.reshape(samples, math.prod(rows.shape[1:-1]), rows.shape[-1])


def alike(grad: Tensor, operand: Tensor) -> tuple[Tensor, Tensor]:
    """Bring two operands to one type; norms under autocast, and sums of both, leave them different."""
    if grad.dtype == operand.dtype:
        return grad, operand
    common = torch.promote_types(grad.dtype, operand.dtype)
    return grad.to(common), operand.to(common)


def lowered(operand: Tensor) -> Tensor:
    """Return an operand of a product or convolution as autocast multiplies it: the gradient of the weight is of that.

    Autocast would do it itself, with a copy that only autograd knows of.
    """
    if not autocasts(operand) or not operand.is_floating_point() or operand.dtype == torch.float64:
        return operand
    return operand.to(torch.get_autocast_dtype(operand.device.type))


def autocasts(tensor: Tensor) -> bool:
    """Whether autocast is on where a tensor is."""
    kind = tensor.device.type
    return kind in _AUTOCASTING and torch.is_autocast_enabled(kind)


def fixed(capture: Capture, *values: Any) -> bool:
    """Whether values are parameters, or the same for every sample, and one of them is a parameter."""
    return any(map(capture.parameter, values)) and all(capture.state(value) is None for value in values)


def add_shift(grad: Tensor, weights: Tensor, sums: Sums) -> None:
    """Add the Fisher of a shift from its gradient laid out as [N, A, P, B]."""
    fisher, gradient = sums.flat()
    ops.fisher_affine(grad, None, None, None, weights, shift_fisher=fisher, shift_gradient=gradient)


def plain_samples(capture: Capture, input: Any, dims: int | None = None) -> Layout | None:
    """Return the layout of [N * frames, C, *space], samples outermost; None for anything else."""
    layout = capture.layout(input)
    if layout is None or layout.dim != 0 or input.shape[0] != capture.samples * layout.inner:
        return None
    return layout if dims is None or input.dim() == dims + 2 else None
