"""One use of one parameter: how a kernel turns the gradient that arrives there into a Fisher diagonal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from fastforget import ops

__all__ = ["Accumulate", "AccumulateBoth", "Lookup", "Standardised", "Sums", "Use", "View", "add_shift"]


class Sums(NamedTuple):
    """Where the results of one parameter are added up, each [G, *shape of the parameter or of the used part].

    Attributes:
        fisher: Weighted squares, or None.
        gradient: Weighted gradients, or None.
        overwrite: They hold nothing yet, not even zeros, and must be written. Only for a use that `overwrites`.
    """

    fisher: Tensor | None
    gradient: Tensor | None
    overwrite: bool = False

    def flat(self) -> tuple[Tensor | None, Tensor | None]:
        """View both as [G, P], where the shape of the parameter may be empty."""
        fisher, gradient = (
            total if total is None else total.view(total.shape[0], -1) for total in (self.fisher, self.gradient)
        )
        return fisher, gradient


# ``accumulate(grad, operands, weights, sums)`` adds to the sums of a parameter, with weights [G, N].
Accumulate = Callable[[Tensor, Sequence[Tensor], Tensor, Sums], None]
# The same for a parameter and its partner, in one pass over the gradient.
AccumulateBoth = Callable[[Tensor, Sequence[Tensor], Tensor, Sums, Sums], None]


class View(NamedTuple):
    """A plain view of a parameter, as `torch.as_strided` takes it."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int


class Use(NamedTuple):
    """One use of one parameter by one function.

    Attributes:
        name: Of the parameter.
        view: The part of the parameter that is used; None for all of it.
        accumulate: Runs the kernel.
        operands: What the kernel needs beside the gradient; kept until then.
        partner: The use of the function's other parameter, a bias beside a weight.
        accumulate_both: Runs one kernel for both, or None.
        overwrites: The kernels can write the sums of this parameter, which then need not be zeros before.
    """

    name: str
    view: View | None
    accumulate: Accumulate
    operands: tuple[Tensor, ...] = ()
    partner: Use | None = None
    accumulate_both: AccumulateBoth | None = None
    overwrites: bool = False

    def add_gradient(self, grad: Tensor, weights: Tensor, sums: Sums) -> None:
        """Add to the sums of the whole parameter, also where only a part of it was used."""
        if self.view is None:
            self.accumulate(grad, self.operands, weights, sums)
            return
        size, stride, offset = self.view
        totals = (sums.fisher, sums.gradient)
        parts = [total if total is None else total.new_zeros((total.shape[0], *size)) for total in totals]
        self.accumulate(grad, self.operands, weights, Sums(parts[0], parts[1]))
        for total, part in zip(totals, parts, strict=True):
            if total is not None and part is not None:
                for whole, piece in zip(total, part, strict=True):
                    whole.as_strided(size, stride, whole.storage_offset() + offset).add_(piece)


class Lookup(NamedTuple):
    """Rows of an embedding table at tokens that are the same for every sample, such as positions.

    Attributes:
        weight: The table, a parameter, [V, D].
        tokens: int64, any shape.
        padding: Token without a gradient; -1 for none.
        version: Of the rows when they were looked up; rows changed in place since then are something else.
    """

    weight: Tensor
    tokens: Tensor
    padding: int
    version: int


class Standardised(NamedTuple):
    """A weight whose rows were standardised, as a batch norm does it with channels.

    Attributes:
        raw: The parameter, [O, ...].
        gain: [O], or None.
        mean: Of each row, [O].
        reciprocal: Of each row's deviation, [O].
        version: Of the standardised weight when it was made.
    """

    raw: Tensor
    gain: Tensor | None
    mean: Tensor
    reciprocal: Tensor
    version: int


def add_shift(grad: Tensor, weights: Tensor, sums: Sums) -> None:
    """Add the Fisher of a shift, from its gradient [N, A, P, B]."""
    fisher, gradient = sums.flat()
    ops.fisher_affine(grad, None, None, None, weights, shift_fisher=fisher, shift_gradient=gradient)
