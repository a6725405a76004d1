"""What becomes of the gradients that arrive at the uses of parameters during one backward."""

from __future__ import annotations

from collections.abc import Container, Mapping

import torch
from torch import Tensor

from fastforget.fisher.capture import Computed, Sums, Use
from fastforget.fisher.sums import SumsByName

__all__ = ["GradientReceiver"]

# Of gradients of single samples in memory at a time. Many samples share the passes over the operands, but for each of
# its groups of weights a kernel works on every sample, and keeps its sums in fast memory.
_BYTES, _MOST_TOGETHER = 2**25, 32


class GradientReceiver:
    """Adds the gradients of one backward to the sums: at once, or if a parameter has several uses, after the last."""

    def __init__(
        self, sums: SumsByName, weights: Tensor, use_counts: Mapping[str, int], computed: Mapping[str, Computed]
    ) -> None:
        """Add to ``sums``, with weights [G, N], for parameters used as often as counted.

        Args:
            sums: Where the results are added up.
            weights: [G, N].
            use_counts: How often each parameter was used.
            computed: Those of them that were computed from parameters, which have no sums of their own.
        """
        self._sums, self._weights, self._use_counts, self._computed = sums, weights, use_counts, computed
        self._sources = frozenset[str]().union(*(one.sources for one in computed.values()))
        self._repeated: dict[str, list[tuple[Use, Tensor]]] = {}

    def receive(self, use: Use, grad: Tensor) -> None:
        """Take the gradient that arrives at a use of a parameter, and of its partner."""
        partner = use.partner
        if partner and use.accumulate_both and self._is_only_use(use) and self._is_only_use(partner):
            sums, partner_sums = self._sums.of_use(use), self._sums.of_use(partner)
            use.accumulate_both(grad, use.operands, self._weights, sums, partner_sums)
            return
        for one in (use, partner):
            if one and self._is_one_of_several(one):
                # The sum over the uses comes before the square.
                self._repeated.setdefault(one.name, []).append((one, grad))
            elif one:
                one.add_gradient(grad, self._weights, self._sums.of_use(one))

    def _is_one_of_several(self, use: Use) -> bool:
        """Whether a use is not all that a parameter's gradient comes from."""
        return self._use_counts[use.name] > 1 or use.name in self._computed or use.name in self._sources

    def _is_only_use(self, use: Use) -> bool:
        """Whether a use is the only one of its parameter, and of the whole of it."""
        return not self._is_one_of_several(use) and use.view is None

    @torch.no_grad()
    def add_repeated_uses(self, parameters: Mapping[str, Tensor], without: Container[str]) -> None:
        """Add parameters that were used more than once, or before something was computed from them.

        A sample's gradient is taken at a time, summed over the uses.

        Args:
            parameters: All parameters that are watched, by name.
            without: Names of those that are computed in another way.
        """
        for names in self._families():
            wanted = [name for name in names if name in parameters and name not in without]
            made = [name for name in names if name in self._computed and name in self._repeated]
            if wanted:
                self._add_family(parameters, wanted, made)
        self._repeated.clear()

    def _families(self) -> list[set[str]]:
        """Return the names used repeatedly, together with what was computed from the same parameters."""
        families: list[set[str]] = []
        for name in self._repeated:
            family = {name, *(self._computed[name].sources if name in self._computed else ())}
            related = [other for other in families if other & family]
            families = [other for other in families if not other & family]
            families.append(family.union(*related))
        return families

    def _add_family(self, parameters: Mapping[str, Tensor], wanted: list[str], made: list[str]) -> None:
        samples = self._weights.shape[1]
        arriving_at = {name: parameters[name] for name in wanted if name in self._repeated}
        arriving_at |= {name: self._computed[name].value for name in made}
        sizes = [value.numel() * self._weights.element_size() for value in arriving_at.values()]
        together = min(samples, _MOST_TOGETHER, max(1, _BYTES // max(1, sum(sizes))))
        memory = {
            name: torch.empty((together, *value.shape), dtype=self._weights.dtype, device=self._weights.device)
            for name, value in arriving_at.items()
        }
        for start in range(0, samples, together):
            stop = min(samples, start + together)
            gradients = {name: self._gradients_of(name, out[: stop - start], start) for name, out in memory.items()}
            for n in range(start, stop):
                arrived = {name: of_samples[n - start] for name, of_samples in gradients.items()}
                for name, grad in self._of_sources(parameters, wanted, made, arrived).items():
                    self._sums.add_sample(name, grad, self._weights[:, n : n + 1])

    def _of_sources(
        self, parameters: Mapping[str, Tensor], wanted: list[str], made: list[str], arrived: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return one sample's gradients of parameters, from those at their uses and at what was computed of them."""
        grads = {name: arrived[name] for name in wanted if name in arrived}
        if not made:
            return grads
        values = [self._computed[name].value for name in made]
        found = torch.autograd.grad(
            values,
            [parameters[name] for name in wanted],
            [arrived[name].to(value.dtype) for name, value in zip(made, values, strict=True)],
            retain_graph=True,
            allow_unused=True,
        )
        for name, grad in zip(wanted, found, strict=True):
            if grad is not None:
                dense = grad.to_dense() if grad.is_sparse else grad
                grads[name] = dense.to(self._weights.dtype) + grads[name] if name in grads else dense
        return grads

    def _gradients_of(self, name: str, gradients: Tensor, start: int) -> Tensor:
        """Fill in the gradients of some samples, each summed over the uses.

        Args:
            name: The parameter.
            gradients: [n, *shape] for samples ``start`` to ``start + n``; holds nothing yet.
            start: The first sample.

        Returns:
            ``gradients``.
        """
        uses = self._repeated[name]
        # A group of weights for each sample, so that the kernels keep them apart.
        each = self._weights.new_zeros(len(gradients), self._weights.shape[1])
        each.diagonal(start).fill_(1)
        overwrite = uses[0][0].overwrites and uses[0][0].view is None
        if not overwrite:
            gradients.zero_()
        for use, grad in uses:
            use.add_gradient(grad, each, Sums(None, gradients, overwrite))
            overwrite = False
        return gradients
