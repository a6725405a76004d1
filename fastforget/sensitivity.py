"""What the rules know of the parameters: the Fisher of the codes to forget and of the others, and a gradient."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fastforget.diagonal import FisherDiagonal

__all__ = ["TINY", "Sensitivity"]

TINY = 1e-16  # where both Fisher sums start in the paper's ratio
_PIECE = 2**16


@dataclass
class Sensitivity:
    """How the losses of the codes depend on the parameters.

    A rule takes its tensors over: where the Fisher was are the scores and directions afterwards.

    Attributes:
        forget: f_CF by name.
        remain: f_CR by name.
        gradient: g_CF by name, or None.
        scale: What the loss was multiplied by.
        tiny: Where both Fisher sums start in their ratio, so that a ratio of two zeros is one.
    """

    forget: dict[str, Tensor]
    remain: dict[str, Tensor]
    gradient: dict[str, Tensor] | None
    scale: float = 1.0
    tiny: float = TINY

    @classmethod
    def of_groups(cls, fisher: FisherDiagonal) -> Sensitivity:
        """Take apart the Fisher of the groups forget and remain, [2, *shape]."""
        forget, remain = ({name: value[group] for name, value in fisher.items()} for group in (0, 1))
        gradient = fisher.gradient and {name: value[0] for name, value in fisher.gradient.items()}
        return cls(forget, remain, gradient, fisher.definition.scale)

    @classmethod
    def of_difference(cls, kept: FisherDiagonal, forget: FisherDiagonal, tiny: float) -> Sensitivity:
        """Subtract the codes to forget from all: f_CR = (sum over all - n f_CF) / (all - n).

        Args:
            kept: Sum over all codes; not changed.
            forget: Mean over the n codes to forget, with the gradient.
            tiny: See the attributes.

        Returns:
            The difference is right to about 1e-6 of f_all, see `FisherDiagonal.__sub__`, and not negative.
        """
        n, rest = forget.samples, 1 / (kept.samples - forget.samples)
        remain = {
            name: torch.sub(kept[name], value, alpha=n).clamp_(min=0).mul_(rest) for name, value in forget.items()
        }
        return cls(dict(forget), remain, forget.gradient, forget.definition.scale, tiny)

    def ratios(self) -> list[Tensor]:
        """Return f_CF / f_CR of every parameter, finite; put in the place of f_CF."""
        for name, value in self.forget.items():
            for forget, remain in _pieces(value, self.remain[name]):
                forget.add_(self.tiny).div_(remain + self.tiny).nan_to_num_(nan=1.0)
        return list(self.forget.values())

    def steepest(self) -> list[Tensor]:
        """Return g_CF / (f_CR + eps), eps = 0.1 mean f_CR; put in the place of f_CR.

        Returns:
            The direction.

        Raises:
            TypeError: There is no gradient.
        """
        if self.gradient is None:
            raise TypeError("`fisher` must come with the gradient")
        total = sum(value.numel() for value in self.remain.values())
        eps = max(0.1 * sum(float(value.sum()) for value in self.remain.values()) / total, self.tiny)
        for name, value in self.remain.items():
            for remain, gradient in _pieces(value, self.gradient[name]):
                torch.div(gradient, remain.add_(eps), out=remain)
        return list(self.remain.values())


def _pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Views of contiguous tensors of one shape, small enough that several of them fit the cache."""
    return zip(*(tensor.view(-1).split(_PIECE) for tensor in tensors), strict=True)
