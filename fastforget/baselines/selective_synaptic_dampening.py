"""Selective synaptic dampening, with labels and without."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fastforget.baselines.training import Batches, editing
from fastforget.batch import batch_size, logits_of
from fastforget.fisher import fisher_diagonal
from fastforget.losses import cross_entropy

__all__ = ["lfssd", "ssd"]


def ssd(
    model: nn.Module,
    forget: Batches,
    everything: Batches,
    *,
    alpha: float = 10.0,
    lam: float = 1.0,
    square: Literal["batch", "sample"] = "batch",
) -> None:
    """Scale down the weights that matter more to the samples to forget than to all.

    ``theta_i <- min(lam I_D,i / I_Df,i, 1) theta_i  where I_Df,i > alpha I_D,i``, in one pass, without training.

    Source: Foster, Schoepf, Brintrup, "Fast Machine Unlearning Without Retraining Through Selective Synaptic
    Dampening", AAAI 2024. ``square="batch"`` is what their code does: the squared mean gradient of each batch, so that
    the order of the loader matters; "sample" is the diagonal of the Fisher that their text speaks of, in which no
    weight can matter ten times more to one of ten classes alike in size: use a smaller alpha.

    Args:
        model: The classifier, changed in place; in eval mode meanwhile.
        forget: Batches to forget.
        everything: Batches of all training data, those to forget included.
        alpha: How many times more a weight must matter; 10 for classes of a ResNet, 5 to 25 of a ViT.
        lam: The dampening.
        square: Where the square is taken.
    """
    _dampen(model, forget, everything, alpha, lam, square, cross_entropy)


def lfssd(
    model: nn.Module,
    forget: Batches,
    everything: Batches,
    *,
    alpha: float = 10.0,
    lam: float = 1.0,
    square: Literal["batch", "sample"] = "batch",
) -> None:
    """Dampen as `ssd` does, with importances that need no labels: gradients of the squared norm of the outputs.

    Source: Foster, Schoepf, Brintrup, "Loss-Free Machine Unlearning", ICLR 2024, Tiny Papers. Importances are
    squares here, as in `ssd`, and not magnitudes: their alpha of 10 is 100 here.

    Args:
        model: The classifier, changed in place; in eval mode meanwhile.
        forget: Batches to forget.
        everything: Batches of all training data, those to forget included.
        alpha: As for `ssd`.
        lam: As for `ssd`.
        square: As for `ssd`.
    """
    _dampen(model, forget, everything, alpha, lam, square, _squared_norm)


def _squared_norm(outputs: Any, _: Tensor) -> Tensor:
    return logits_of(outputs).double().square().sum(1)


def _dampen(
    model: nn.Module,
    forget: Batches,
    everything: Batches,
    alpha: float,
    lam: float,
    square: Literal["batch", "sample"],
    loss: Callable[[Any, Tensor], Tensor],
) -> None:
    with editing(model, 0, train=False, alpha=alpha, lam=lam) as edited:
        few, all_of = (_importance(edited, batches, square, loss) for batches in (forget, everything))
        with torch.no_grad():
            for name, parameter in edited.named_parameters():
                chosen = few[name] > alpha * all_of[name]
                factor = (lam * all_of[name] / few[name]).clamp(max=1.0)
                parameter.mul_(torch.where(chosen, factor, 1.0))


def _importance(
    model: nn.Module, batches: Batches, square: Literal["batch", "sample"], loss: Callable[[Any, Tensor], Tensor]
) -> dict[str, Tensor]:
    """Return the mean square of the gradients, over batches or over samples."""
    total: dict[str, Tensor] = {}
    weight = 0
    for inputs, targets in batches:
        units = 1 if square == "batch" else batch_size(inputs, targets)
        found = fisher_diagonal(model, inputs, targets, loss=loss, square=square)
        for name, value in found.items():
            total[name] = total.get(name, 0) + units * value
        weight += units
    if not weight:
        raise ValueError("there must be at least one batch, got none")
    return {name: value / weight for name, value in total.items()}
