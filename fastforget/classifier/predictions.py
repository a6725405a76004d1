"""A classifier's predictions for samples with their classes, and what can be read off them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from fastforget.classifier.data_forms import LabelledData
from fastforget.classifier.labelled_batches import check_classes, check_logits, labelled_batches
from fastforget.classifier.losses import log_odds
from fastforget.classifier.modes import evaluating
from fastforget.classifier.running import forward, logits_of

__all__ = ["Predictions", "collect_predictions", "measure_accuracy"]

_LEAST = -100.0  # nats; so that 0 log 0 is 0


@dataclass(frozen=True, eq=False)
class Predictions:
    """Logits of samples with their classes, on the CPU.

    Attributes:
        logits: float64 [N, C].
        targets: int64 [N].
    """

    logits: Tensor
    targets: Tensor

    @cached_property
    def log_p(self) -> Tensor:
        """Log-probabilities, [N, C]."""
        return self.logits.log_softmax(1)

    @property
    def p(self) -> Tensor:
        """Probabilities, [N, C]."""
        return self.log_p.exp()

    @property
    def correct(self) -> Tensor:
        """Whether the class is the predicted one, bool [N]."""
        return self.logits.argmax(1) == self.targets

    @property
    def accuracy(self) -> float:
        """In [0, 1]."""
        return float(self.correct.double().mean())

    @property
    def losses(self) -> Tensor:
        """Cross-entropy, nats [N]."""
        return -self.log_p.gather(1, self.targets[:, None]).squeeze(1)

    @property
    def confidences(self) -> Tensor:
        """The largest probability, [N]."""
        return self.log_p.max(1).values.exp()

    @property
    def entropies(self) -> Tensor:
        """Entropy of the prediction, nats [N]."""
        return -(self.p * self.log_p.clamp(min=_LEAST)).sum(1)

    @property
    def modified_entropies(self) -> Tensor:
        """Entropy that is small for right and sure, and large for wrong and sure (Song and Mittal, 2021), nats [N]."""
        others = -torch.expm1(self.log_p.clamp(max=-1e-300))  # 1 - p
        own = self.targets[:, None]
        wrong = -(self.p * others.clamp(min=1e-300).log()).scatter(1, own, 0.0).sum(1)
        return others.gather(1, own).squeeze(1) * self.losses + wrong

    @property
    def odds(self) -> Tensor:
        """Log-odds of the class, nats [N]."""
        return log_odds(self.logits, self.targets)

    def of_classes(self, classes: Sequence[int]) -> Predictions:
        """Return the samples of some classes."""
        chosen = torch.isin(self.targets, torch.tensor(list(classes), device=self.targets.device))
        return Predictions(self.logits[chosen], self.targets[chosen])

    def per_class(self) -> list[float | None]:
        """Return the accuracy on each class, None where there is no sample."""
        parts = (self.correct[self.targets == cls].double() for cls in range(self.logits.shape[1]))
        return [float(part.mean()) if len(part) else None for part in parts]


def collect_predictions(model: nn.Module, data: LabelledData, name: str) -> Predictions:
    """Run a classifier on batches, in eval mode.

    Args:
        model: The eager module.
        data: Samples on its device, in any form that `batches_of` takes.
        name: The argument that they were given as, for errors.

    Returns:
        The predictions.

    Raises:
        TypeError: Targets are not int64.
        ValueError: There is no batch, logits are not finite and of shape [N, C], or targets are no classes.
    """
    parts: list[tuple[Tensor, Tensor]] = []
    with evaluating(model), torch.no_grad():
        for inputs, targets in labelled_batches(data, name):
            parts.append((logits_of(forward(model, inputs)).double().cpu(), targets.cpu()))
    logits, targets = (torch.cat(part) for part in zip(*parts, strict=True))
    check_classes(targets, check_logits(logits, name), name)
    return Predictions(logits, targets)


def measure_accuracy(model: nn.Module, data: LabelledData, name: str) -> float:
    """Run a classifier on batches, in eval mode, and count what is right; no prediction is kept.

    Args:
        model: The eager module.
        data: Samples on its device, in any form that `batches_of` takes.
        name: The argument that they were given as, for errors.

    Returns:
        The accuracy, in [0, 1].

    Raises:
        TypeError: Targets are not int64.
        ValueError: There is no batch, logits are not finite and of shape [N, C], or targets are no classes.
    """
    right = total = 0
    with evaluating(model), torch.no_grad():
        for inputs, targets in labelled_batches(data, name):
            logits = logits_of(forward(model, inputs))
            check_classes(targets, check_logits(logits, name), name)
            right += int((logits.argmax(1) == targets.to(logits.device)).sum())
            total += len(targets)
    return right / total
