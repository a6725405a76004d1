"""The accuracy on validation samples that must hold while a model unlearns."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fastforget.classifier.running import forward, logits_of
from fastforget.classifier.validation import ValidationFloor, check_floor

__all__ = ["AccuracyFloor"]


class AccuracyFloor:
    """Keeps the last parameters with which the accuracy held, and puts them back when it no longer does."""

    def __init__(self, model: nn.Module, moving: Mapping[str, Tensor], floor: object) -> None:
        """Check the samples, and that the model meets the floor as it is.

        Args:
            model: The module whose parameters move.
            moving: These parameters.
            floor: (inputs, targets, accuracy), or None for no floor.

        Raises:
            TypeError: It is something else, or its parts are.
            ValueError: The accuracy is not in [0, 1], or the model does not have it.
        """
        self._model, self._moving = model, moving
        self._validation: ValidationFloor | None = None
        if floor is None:
            return
        self._validation = check_floor(floor, next(iter(moving.values())).device)
        accuracy = self._measure(self._validation)
        if accuracy < self.accuracy:
            raise ValueError(
                f"`floor` must be at most the accuracy before, which is {accuracy:.4f}, got {self.accuracy}"
            )
        self.keep()

    @property
    def accuracy(self) -> float:
        """The floor; 0 for none."""
        return 0.0 if self._validation is None else self._validation.accuracy

    def keep(self) -> None:
        """Keep the parameters as they are, which are known to meet the floor."""
        if self._validation is not None:
            self._kept = {name: value.detach().clone() for name, value in self._moving.items()}

    def holds(self) -> bool:
        """Return whether the accuracy holds; if not, the kept parameters are back."""
        if self._validation is None:
            return True
        if self._measure(self._validation) >= self.accuracy:
            self.keep()
            return True
        with torch.no_grad():
            for name, value in self._kept.items():
                self._moving[name].copy_(value)
        return False

    def _measure(self, validation: ValidationFloor) -> float:
        with torch.no_grad():
            logits = logits_of(forward(self._model, validation.inputs))
        return float((logits.argmax(1) == validation.targets.to(logits.device)).double().mean())
