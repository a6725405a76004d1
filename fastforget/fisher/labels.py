"""Whose labels a Fisher is of: those given, or the model's own, all of them or drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastforget.classifier.devices import DeferredChecks
from fastforget.classifier.losses import Loss
from fastforget.classifier.running import logits_of

__all__ = ["BackwardPass", "LabelSource"]


class BackwardPass(NamedTuple):
    """The labels of one backward.

    Attributes:
        targets: What the loss takes.
        share: The share of each sample in this pass, [N]; None for all of it.
    """

    targets: Any
    share: Tensor | None

    def weigh(self, weights: Tensor) -> Tensor:
        """Return the weights [G, N] of the samples in this pass."""
        return weights if self.share is None else (weights * self.share).to(weights.dtype)

    def share_of(self, losses: Tensor) -> Tensor:
        """Return this pass's part of the losses [N] of the samples."""
        return losses if self.share is None else losses * self.share


@dataclass(frozen=True)
class LabelSource:
    """Where labels come from.

    Attributes:
        kind: "given", "expectation" or "sampled".
        generator: Source of the draws.
        draws: Labels per sample.
    """

    kind: str = "given"
    generator: torch.Generator | None = None
    draws: int = 1

    def check(self, targets: Any, *, square: str, needs_targets: bool) -> None:
        """Check that the arguments of `fisher_diagonal` go together.

        Args:
            targets: The targets, or None.
            square: What is squared.
            needs_targets: Whether the loss cannot do without targets.

        Raises:
            TypeError: The generator or the number of draws has another type.
            ValueError: They do not go together.
        """
        if self.kind not in ("given", "expectation", "sampled"):
            raise ValueError(f'`labels` must be "given", "expectation" or "sampled", got {self.kind!r}')
        if self.kind != "given" and targets is not None:
            raise ValueError(f'`targets` must be None with labels="{self.kind}", which takes labels from the model')
        if self.kind == "given" and targets is None and needs_targets:
            raise ValueError('`targets` must be given with labels="given", got None')
        if self.kind != "given" and square != "sample":
            raise ValueError(f'`labels` must be "given" with square="batch", got {self.kind!r}')
        if self.kind != "sampled" and (self.generator is not None or self.draws != 1):
            raise ValueError(f'`generator` and `draws` must be left out with labels="{self.kind}"')
        if self.kind == "sampled" and not isinstance(self.generator, torch.Generator):
            # The library leaves PyTorch's random state as it was: drawn from that, labels would always be the same.
            raise TypeError(
                f'`generator` must be a torch.Generator with labels="sampled", got {type(self.generator).__name__}'
            )
        if isinstance(self.draws, bool) or not isinstance(self.draws, int):
            raise TypeError(f"`draws` must be an int, got {type(self.draws).__name__}")
        if self.draws < 1:
            raise ValueError(f"`draws` must be at least 1, got {self.draws}")

    def check_generator(self, device: torch.device) -> None:
        """Raise ValueError if the generator is not on the device where labels are drawn."""
        if self.generator is not None and self.generator.device.type != device.type:
            raise ValueError(f"`generator` must be on {device}, the model's device, got one on {self.generator.device}")

    def backward_passes(self, loss: Loss, outputs: Any, targets: Any, checks: DeferredChecks) -> list[BackwardPass]:
        """Return the targets of each backward with the samples' shares in it.

        Args:
            loss: Per-sample loss, [N].
            outputs: What the model returned.
            targets: The targets that were given.
            checks: Takes the conditions on values.

        Returns:
            With given labels one pass; with "expectation" one per class c, with shares p(c | x_n); with "sampled" one
            per draw.

        Raises:
            TypeError: The model's own labels are wanted, but it returns no logits.
            ValueError: The loss is not the negative log-likelihood of classes.
        """
        if self.kind == "given":
            return [BackwardPass(targets, None)]
        likelihood = _likelihood(loss, outputs, checks)
        if self.kind == "expectation":
            return [
                BackwardPass(torch.full_like(share, c, dtype=torch.int64), share) for c, share in enumerate(likelihood)
            ]
        checks.finish()  # to draw from what is no distribution would end the CUDA context
        drawn = torch.multinomial(likelihood.T, self.draws, replacement=True, generator=self.generator)
        share = likelihood.new_full((len(drawn),), 1 / self.draws)
        return [BackwardPass(column.contiguous(), share) for column in drawn.T]


def _likelihood(loss: Loss, outputs: Any, checks: DeferredChecks) -> Tensor:
    """The model's own distribution, p(c | x_n) = exp(-loss of class c), float64 [C, N]."""
    logits = logits_of(outputs).detach()
    if logits.dim() != 2:
        raise ValueError(f"`model` must return logits [N, C] for labels of its own, got shape {tuple(logits.shape)}")
    classes = [torch.full((len(logits),), c, device=logits.device) for c in range(logits.shape[1])]
    with torch.no_grad():
        losses = [loss(outputs, targets) for targets in classes]
    if any(not isinstance(value, Tensor) or value.shape != classes[0].shape for value in losses):
        raise ValueError(f"`loss` must return one loss per sample, shape ({len(logits)},)")
    likelihood = torch.stack(losses).double().neg().exp()
    total = likelihood.sum(0)

    def complain() -> None:
        off = total[(total - 1).abs().nan_to_num(nan=1e9).argmax()].item()
        raise ValueError(
            "`loss` must be the negative log-likelihood of a class for labels of the model's own, but the "
            f"probabilities of the {len(classes)} classes add up to {off}"
        )

    checks.add(((total - 1).abs() < 1e-3).all(), bool, complain)  # also if NaN
    return likelihood
