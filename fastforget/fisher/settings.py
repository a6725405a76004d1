"""Which Fisher is computed: the settings of `fisher_diagonal` that travel together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fastforget.classifier.losses import Loss, cross_entropy, describe
from fastforget.fisher.diagonal import Definition
from fastforget.fisher.labels import LabelSource

__all__ = ["Settings"]


@dataclass(frozen=True, eq=False)
class Settings:
    """Settings as `fisher_diagonal` describes them.

    Attributes:
        loss: Returns one loss per sample, [N].
        labels: Where the labels come from.
        square: "sample" or "batch".
        batch_size: With "batch", samples per batch; None for all of them.
        with_gradient: Whether the gradients are added up as well.
    """

    loss: Loss
    labels: LabelSource
    square: str
    batch_size: int | None
    with_gradient: bool

    def check(self, targets: Any, weights: Tensor | None) -> None:
        """Check that the settings are right, and go together with the other arguments.

        Args:
            targets: The targets, or None.
            weights: The weights, or None.

        Raises:
            TypeError: One has the wrong type.
            ValueError: One has a wrong value, or they do not go together.
        """
        self.labels.check(targets, square=self.square, needs_targets=self.loss is cross_entropy)
        if self.square not in ("sample", "batch"):
            raise ValueError(f'`square` must be "sample" or "batch", got {self.square!r}')
        if self.batch_size is not None:
            if isinstance(self.batch_size, bool) or not isinstance(self.batch_size, int):
                raise TypeError(f"`batch_size` must be an int, got {type(self.batch_size).__name__}")
            if self.square != "batch":
                raise ValueError('`batch_size` must be left out with square="sample", which no batch size changes')
            if self.batch_size < 1:
                raise ValueError(f"`batch_size` must be at least 1, got {self.batch_size}")
        if self.square == "batch" and weights is not None:
            raise ValueError('`weights` must be None with square="batch", which has no square per sample to weigh')

    def count_squares(self, samples: int) -> int:
        """Return how many gradients are squared for N samples: one per sample, or one per batch."""
        return samples if self.square == "sample" else -(-samples // (self.batch_size or samples))

    def definition(self) -> Definition:
        """Return which of the quantities called Fisher diagonal this is."""
        return Definition(self.labels.kind, self.square, *describe(self.loss))
