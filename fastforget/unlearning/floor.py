"""Validation samples on which the accuracy must hold while a model unlearns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fastforget.batch import Inputs, batch_size, forward, logits_of

__all__ = ["Floor"]


class Floor:
    """Remembers the last parameters with which the accuracy was there, and puts them back when it no longer is.

    Attributes:
        accuracy: The floor, 0 for none.
    """

    def __init__(self, model: nn.Module, moving: Mapping[str, Tensor], given: Any) -> None:
        """Check the samples, and that the model meets the floor as it is.

        Args:
            model: The module whose parameters move.
            moving: These parameters.
            given: (inputs, targets, accuracy), or None for no floor.

        Raises:
            TypeError: It is something else, or its parts are.
            ValueError: The accuracy is not in [0, 1], or the model does not have it.
        """
        self._model, self._moving = model, moving
        self._samples: tuple[Inputs, Tensor] | None = None
        self.accuracy = 0.0
        if given is None:
            return
        if not isinstance(given, (tuple, list)) or len(given) != 3:
            raise TypeError(f"`floor` must be (inputs, targets, accuracy), got {type(given).__name__}")
        inputs, targets, accuracy = given
        if not isinstance(targets, Tensor) or targets.dim() != 1 or targets.dtype != torch.int64:
            raise TypeError("the targets of `floor` must be a torch.int64 tensor [N]")
        if isinstance(accuracy, bool) or not isinstance(accuracy, (int, float)):
            raise TypeError(f"the accuracy of `floor` must be a number, got {type(accuracy).__name__}")
        if not 0 <= accuracy <= 1:
            raise ValueError(f"the accuracy of `floor` must lie in [0, 1], got {accuracy}")
        batch_size(inputs, targets)
        where = next(iter(moving.values())).device
        inputs, targets = pytree.tree_map_only(Tensor, lambda tensor: tensor.to(where), (inputs, targets))
        self._samples, self.accuracy = (inputs, targets), float(accuracy)
        found = self._measure(inputs, targets)
        if found < accuracy:
            raise ValueError(f"`floor` must be at most the accuracy before, which is {found:.4f}, got {accuracy}")
        self._keep()

    def moved(self) -> None:
        """Take the parameters as they are now, which an earlier run has found good, for those to go back to."""
        if self._samples is not None:
            self._keep()

    def holds(self) -> bool:
        """Whether the accuracy is there; if not, the last parameters with which it was are back."""
        if self._samples is None:
            return True
        if self._measure(*self._samples) >= self.accuracy:
            self._keep()
            return True
        with torch.no_grad():
            for name, value in self._good.items():
                self._moving[name].copy_(value)
        return False

    def _keep(self) -> None:
        self._good = {name: value.detach().clone() for name, value in self._moving.items()}

    def _measure(self, inputs: Inputs, targets: Tensor) -> float:
        with torch.no_grad():
            logits = logits_of(forward(self._model, inputs))
        return float((logits.argmax(1) == targets.to(logits.device)).double().mean())
