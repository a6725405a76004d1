"""What a classifier says of samples, and what can be read off it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from fastforget.batch import batch_size, forward, logits_of
from fastforget.losses import log_odds
from fastforget.model import evaluating

__all__ = ["Observation", "observe"]

_LEAST = -100.0  # nats; so that 0 log 0 is 0


@dataclass(frozen=True, eq=False)
class Observation:
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

    def of_classes(self, classes: Sequence[int]) -> Observation:
        """Return the samples of some classes."""
        chosen = torch.isin(self.targets, torch.tensor(list(classes), device=self.targets.device))
        return Observation(self.logits[chosen], self.targets[chosen])

    def per_class(self) -> list[float | None]:
        """Return the accuracy on each class, None where there is no sample."""
        parts = (self.correct[self.targets == cls].double() for cls in range(self.logits.shape[1]))
        return [float(part.mean()) if len(part) else None for part in parts]


def observe(model: nn.Module, data: Iterable[tuple[Any, Tensor]], name: str) -> Observation:
    """Run a classifier on batches, in eval mode.

    Args:
        model: The eager module.
        data: Batches (inputs, targets) on its device.
        name: What to call them in errors.

    Returns:
        What it says.

    Raises:
        TypeError: Targets are not int64.
        ValueError: There is no batch, logits are not finite and of shape [N, C], or targets are no classes.
    """
    found: list[tuple[Tensor, Tensor]] = []
    with evaluating(model), torch.no_grad():
        for inputs, targets in data:
            batch_size(inputs, targets)
            if not isinstance(targets, Tensor) or targets.dim() != 1 or targets.dtype != torch.int64:
                kind = (
                    f"{targets.dtype} {tuple(targets.shape)}" if isinstance(targets, Tensor) else type(targets).__name__
                )
                raise TypeError(f"targets of `{name}` must be torch.int64 [N], got {kind}")
            found.append((logits_of(forward(model, inputs)).double().cpu(), targets.cpu()))
    if not found:
        raise ValueError(f"`{name}` must hold at least one batch, got none")
    logits, targets = (torch.cat(parts) for parts in zip(*found, strict=True))
    if logits.dim() != 2:
        raise ValueError(f"models must return logits [N, C], got shape {tuple(logits.shape)}")
    if not bool(logits.isfinite().all()):
        raise ValueError(f"models must return finite logits on `{name}`, got NaN or infinity")
    low, high = (int(bound) for bound in targets.aminmax())
    if low < 0 or high >= logits.shape[1]:
        raise ValueError(f"targets of `{name}` must be in [0, {logits.shape[1]}), got values from {low} to {high}")
    return Observation(logits, targets)
