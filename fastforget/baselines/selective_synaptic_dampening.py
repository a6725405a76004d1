"""Selective synaptic dampening, with labels and without."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fastforget.baselines.batches import mean_over_batches
from fastforget.baselines.editing import editing
from fastforget.classifier.data_forms import LabelledData
from fastforget.classifier.inputs import Inputs
from fastforget.classifier.losses import cross_entropy
from fastforget.classifier.running import logits_of
from fastforget.fisher.compute import fisher_diagonal

__all__ = ["lfssd", "ssd"]


def ssd(
    model: nn.Module,
    forget: LabelledData,
    everything: LabelledData,
    *,
    alpha: float = 10.0,
    lam: float = 1.0,
    square: Literal["batch", "sample"] = "batch",
) -> None:
    """Scale down the weights that matter much more to the samples to forget than to all.

    ``theta_i <- min(lam I_D,i / I_Df,i, 1) theta_i  where I_Df,i > alpha I_D,i``, in one pass, without training.

    Source: Foster, Schoepf, Brintrup, "Fast Machine Unlearning Without Retraining Through Selective Synaptic
    Dampening", AAAI 2024. ``square="batch"`` is what their code does: it squares the mean gradient of each batch, so
    that the order of the loader matters. "sample" is the diagonal of the Fisher, which their text defines. In it no
    weight can matter ten times more to one of ten classes of the same size: use a smaller alpha.

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
    forget: LabelledData,
    everything: LabelledData,
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
    forget: LabelledData,
    everything: LabelledData,
    alpha: float,
    lam: float,
    square: Literal["batch", "sample"],
    loss: Callable[[Any, Tensor], Tensor],
) -> None:
    with editing(model, 0, train=False, alpha=alpha, lam=lam) as edited:

        def importance(batches: LabelledData, name: str) -> dict[str, Tensor]:
            """Return the mean square of the gradients, over batches or over samples."""

            def squares(inputs: Inputs, targets: Tensor) -> dict[str, Tensor]:
                return fisher_diagonal(edited, inputs, targets, loss=loss, square=square)

            return mean_over_batches(batches, name, squares, per_sample=square == "sample")

        to_forget, to_all = importance(forget, "forget"), importance(everything, "everything")
        with torch.no_grad():
            for name, parameter in edited.named_parameters():
                chosen = to_forget[name] > alpha * to_all[name]
                factor = (lam * to_all[name] / to_forget[name]).clamp(max=1.0)
                parameter.mul_(torch.where(chosen, factor, 1.0))
