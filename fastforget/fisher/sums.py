"""Where gradients and their squares are added up, by name of the parameter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from fastforget import ops
from fastforget.fisher.capture import Sums, Use
from fastforget.fisher.dtypes import sum_dtype

__all__ = ["SumsByName"]


class SumsByName:
    """Weighted sums over samples, for G groups of weights; a parameter that is missing has sums of zero.

    Attributes:
        fisher: Sums of squares by name, [G, *shape].
        gradient: Sums of gradients, the same names and shapes, or None.
    """

    def __init__(self, parameters: Mapping[str, Tensor], groups: int, *, with_gradient: bool) -> None:
        """Start with nothing."""
        self.fisher: dict[str, Tensor] = {}
        self.gradient: dict[str, Tensor] | None = {} if with_gradient else None
        self._parameters = parameters
        self._groups = groups

    def of_use(self, use: Use) -> Sums:
        """Return the sums that a use's kernel adds to; those that it would write need not be zeros before."""
        overwrite = use.overwrites and use.view is None and use.name not in self.fisher
        fisher = self._total(self.fisher, use.name, cleared=not overwrite)
        gradient = None if self.gradient is None else self._total(self.gradient, use.name, cleared=not overwrite)
        return Sums(fisher, gradient, overwrite)

    def add_sample(self, name: str, per_sample: Tensor, weights: Tensor, *, owned: bool = False) -> None:
        """Add the gradient of one sample.

        Args:
            name: The parameter.
            per_sample: Its gradient, of the parameter's shape.
            weights: The sample's weights, [G, 1].
            owned: Nobody else keeps the memory of the gradient, which may become the result.
        """
        values = per_sample.to(weights.dtype).contiguous()
        if name not in self.fisher and len(weights) == 1:
            # The first sample, and often the only one: written once. Adding to zeros would touch the memory twice.
            # Only on the CPU is it known without waiting that a weight is one.
            weight = float(weights) if weights.is_cpu else weights[0, 0]
            is_one = weights.is_cpu and weight == 1
            self.fisher[name] = (values.square() if is_one else weight * values.square())[None]
            if self.gradient is not None:
                self.gradient[name] = (values if owned and is_one else values * weight)[None]
            return
        flat = values.reshape(1, 1, -1, 1)
        shape = (len(weights), flat.shape[2])
        gradient = None if self.gradient is None else self._total(self.gradient, name).view(shape)
        fisher = self._total(self.fisher, name).view(shape)
        ops.fisher_affine(
            flat, None, None, None, weights.contiguous(), shift_fisher=fisher, shift_gradient=gradient
        )  # fmt: skip

    def discard(self, names: Iterable[str]) -> None:
        """Drop what was added for some parameters."""
        for name in names:
            self.fisher.pop(name, None)
            if self.gradient is not None:
                self.gradient.pop(name, None)

    def unscale(self, scale: Tensor | float | None) -> None:
        """Divide by a power of two with which all losses were multiplied."""
        if scale is None or (isinstance(scale, float) and scale == 1):
            return
        for totals, factor in ((self.fisher, scale**2), (self.gradient or {}, scale)):
            for total in totals.values():
                total.div_(factor)

    def results(self, *, grouped: bool) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
        """Return sums of squares and of gradients of all parameters, [G, *shape], or [*shape] unless ``grouped``."""

        def complete(totals: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: self._total(totals, name)[slice(None) if grouped else 0] for name in self._parameters}

        return complete(self.fisher), None if self.gradient is None else complete(self.gradient)

    def _total(self, totals: dict[str, Tensor], name: str, *, cleared: bool = True) -> Tensor:
        """The sum of a parameter, [G, *shape]; at first zero, or anything at all unless ``cleared``."""
        if name not in totals:
            parameter = self._parameters[name]
            create, shape = torch.zeros if cleared else torch.empty, (self._groups, *parameter.shape)
            totals[name] = create(shape, dtype=sum_dtype(parameter.dtype), device=parameter.device)
        return totals[name]
