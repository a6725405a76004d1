"""The features of samples: what the output layer of a model gets to see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastforget.classifier.data_forms import Batches
from fastforget.classifier.modes import evaluating
from fastforget.classifier.output_layer import OutputLayer, find_output_layer

__all__ = ["Features", "ModelFeatures"]


@dataclass(frozen=True, eq=False)
class Features:
    """Features of samples with their classes, on the CPU.

    Attributes:
        values: [N, D].
        targets: int64 [N].
    """

    values: Tensor
    targets: Tensor

    @classmethod
    def of(cls, model: nn.Module, layer: OutputLayer, batches: Batches) -> Features:
        """Run a model in eval mode, up to its output layer."""
        with evaluating(model):
            parts = [(layer.features(model, inputs).cpu(), targets.cpu()) for inputs, targets in batches]
        values, targets = (torch.cat(part) for part in zip(*parts, strict=True))
        return cls(values, targets)

    def of_classes(self, classes: Sequence[int]) -> Features:
        """Return the samples of some classes."""
        chosen = torch.isin(self.targets, self.targets.new_tensor(list(classes)))
        return Features(self.values[chosen], self.targets[chosen])

    def first(self, count: int) -> Features:
        """Return the first ``count`` samples of each class."""
        rows = [(self.targets == cls).nonzero().squeeze(1)[:count] for cls in self.targets.unique().tolist()]
        chosen = torch.cat(rows)
        return Features(self.values[chosen], self.targets[chosen])


@dataclass(frozen=True, eq=False)
class ModelFeatures:
    """Features that a model has.

    Attributes:
        known: Of a few training samples of each class.
        test: Of the test samples.
    """

    known: Features
    test: Features

    @classmethod
    def of(cls, model: nn.Module, known: Sequence[tuple[object, Tensor]], test: Batches) -> ModelFeatures | None:
        """Run a model, or return None where it has no linear layer whose outputs are the logits."""
        with evaluating(model):
            layer = find_output_layer(model, known[0][0])  # type: ignore[arg-type]
        if layer is None:
            return None
        return cls(Features.of(model, layer, known), Features.of(model, layer, test))
