"""Steps of an optimiser that move a part of the elements only."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

__all__ = ["MaskedStep"]


class MaskedStep:
    """Steps of an optimiser that leave the elements outside masks as they are, to the bit.

    A gradient set to zero does not do that: momentum and weight decay still move the weights.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, masks: Mapping[nn.Parameter, Tensor]) -> None:
        """Wrap an optimiser.

        Args:
            optimizer: Of some parameters.
            masks: Of parameters of which only a part may move: bool, in their shapes.

        Raises:
            ValueError: A mask has another shape or type.
        """
        for parameter, mask in masks.items():
            if mask.dtype != torch.bool or mask.shape != parameter.shape:
                raise ValueError(f"masks must be bool of shape {tuple(parameter.shape)}, got {mask.dtype}")
        self._optimizer, self._masks = optimizer, dict(masks)

    def zero_grad(self) -> None:
        """Drop all gradients."""
        self._optimizer.zero_grad()

    @torch.no_grad()
    def step(self) -> None:
        """Take a step."""
        before = {parameter: parameter.clone() for parameter in self._masks}
        self._optimizer.step()
        for parameter, mask in self._masks.items():
            parameter.copy_(torch.where(mask, parameter, before[parameter]))
