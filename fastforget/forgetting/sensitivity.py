"""What the rules know of the parameters: the Fisher of the codes to forget and of the others, and a gradient."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fastforget.diagonal import FisherDiagonal

__all__ = ["TINY", "Sensitivity"]

TINY = 1e-16  # where both Fisher sums start in the paper's ratio
# Elements taken through several operations while they are in cache; fewer than PyTorch starts to sum in parallel, in an
# order that depends on the number of threads.
_PIECE = 2**15 - 64


@dataclass
class Sensitivity:
    """How the losses of the codes depend on the parameters.

    Attributes:
        forget: f_CF by name.
        remain: f_CR by name, or memory for it where it is yet to be computed from ``kept``.
        gradient: g_CF by name, or None.
        scale: What the loss was multiplied by.
        tiny: Where both Fisher sums start in their ratio, so that a ratio of two zeros is one.
        kept: Sums over all codes, or None.
        counts: With ``kept``, the number of all codes and of those to forget.
    """

    forget: dict[str, Tensor]
    remain: dict[str, Tensor]
    gradient: dict[str, Tensor] | None
    scale: float = 1.0
    tiny: float = TINY
    kept: Mapping[str, Tensor] | None = None
    counts: tuple[int, int] = (0, 0)
    _sums: dict[str, Tensor] = field(default_factory=dict, init=False)

    @classmethod
    def of_groups(cls, fisher: FisherDiagonal) -> Sensitivity:
        """Take apart the Fisher of the groups forget and remain, [2, *shape]."""
        forget, remain = ({name: value[group] for name, value in fisher.items()} for group in (0, 1))
        gradient = fisher.gradient and {name: value[0] for name, value in fisher.gradient.items()}
        return cls(forget, remain, gradient, fisher.definition.scale)

    @classmethod
    def of_difference(cls, kept: FisherDiagonal, forget: FisherDiagonal, tiny: float) -> Sensitivity:
        """Subtract the codes to forget from all: f_CR = (sum over all - n f_CF) / (all - n).

        The difference is right to about 1e-6 of f_all, see `FisherDiagonal.__sub__`, and not negative.

        Args:
            kept: Sum over all codes; not changed.
            forget: Mean over the n codes to forget, with the gradient; taken over.
            tiny: See the attributes.

        Returns:
            The sensitivity, whose f_CR is computed with the ratios.
        """
        remain = {name: torch.empty_like(value) for name, value in forget.items()}
        counts = (kept.samples, forget.samples)
        return cls(dict(forget), remain, forget.gradient, forget.definition.scale, tiny, kept, counts)

    def ratios(self) -> dict[str, Tensor]:
        """Return f_CF / f_CR of every parameter, finite; once, since they take the place of f_CF."""
        everything, few = self.counts
        self._sums = {}
        for name, value in self.forget.items():
            kept = [] if self.kept is None else [self.kept[name].contiguous()]
            sums = []
            for forget, remain, *of_all in _pieces(value, self.remain[name], *kept):
                if of_all:
                    torch.sub(of_all[0], forget, alpha=few, out=remain).clamp_(min=0).mul_(1 / (everything - few))
                sums.append(remain.sum())
                forget.add_(self.tiny).div_(remain + self.tiny).nan_to_num_(nan=1.0)
            if sums:
                self._sums[name] = torch.stack(sums).double().sum()
        return self.forget

    def totals(self, names: Iterable[str]) -> Tensor:
        """Return the sum of f_CR of each of these parameters that has elements, float64; after the ratios."""
        return torch.stack([self._sums[name] for name in names if name in self._sums])

    def steepest(self, places: Mapping[str, Tensor], totals: Sequence[float] | None = None) -> tuple[Tensor, Tensor]:
        """Return g_CF / (f_CR + eps), eps = 0.1 mean f_CR, and g_CF at some places; after the ratios.

        Args:
            places: Indices of elements of some parameters, over which f_CR is averaged.
            totals: The `totals` of these, where the host has read them.

        Returns:
            Both in one piece, in the order of the places.

        Raises:
            TypeError: There is no gradient.
        """
        if self.gradient is None:
            raise TypeError("`fisher` must come with the gradient")
        gradient, remain = (
            torch.cat([values[name].view(-1)[at] for name, at in places.items()])
            for values in (self.gradient, self.remain)
        )
        elements = sum(self.remain[name].numel() for name in places)
        mean = sum(self.totals(places).tolist() if totals is None else totals) / elements
        return gradient / remain.add_(max(0.1 * mean, self.tiny)), gradient


def _pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Views of contiguous tensors of one shape, small enough that several of them fit the cache."""
    return zip(*(tensor.view(-1).split(_PIECE) for tensor in tensors), strict=True)
