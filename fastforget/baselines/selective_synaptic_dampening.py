"""Selective synaptic dampening: with labels, without, and with a threshold that the data decides."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from fastforget.baselines.batches import mean_over_batches
from fastforget.baselines.editing import editing
from fastforget.classifier.data_forms import LabelledData
from fastforget.classifier.inputs import Inputs
from fastforget.classifier.losses import cross_entropy
from fastforget.classifier.running import logits_of
from fastforget.edits.receipt import Receipt
from fastforget.fisher.compute import fisher_diagonal

__all__ = ["assd", "lfssd", "ssd"]


def ssd(
    model: nn.Module,
    forget: LabelledData,
    remain: LabelledData,
    *,
    everything: LabelledData | None = None,
    alpha: float = 10.0,
    lam: float = 1.0,
    square: Literal["batch", "sample"] = "batch",
) -> Receipt:
    """Scale down the weights that matter much more to the samples to forget than to all.

    ``theta_i <- min(lam I_D,i / I_Df,i, 1) theta_i  where I_Df,i > alpha I_D,i``, in one pass, without training.

    Source: Foster, Schoepf, Brintrup, "Fast Machine Unlearning Without Retraining Through Selective Synaptic
    Dampening", AAAI 2024. ``square="batch"`` is what their code does: it squares the mean gradient of each batch, so
    that the order of the loader matters. "sample" is the diagonal of the Fisher, which their text defines. In it no
    weight can matter ten times more to one of ten classes of the same size: use a smaller alpha.

    Args:
        model: The classifier, changed in place; in eval mode meanwhile.
        forget: Batches to forget.
        remain: Batches of the remaining data; not used with ``everything``.
        everything: Batches of all training data, those to forget included; None for those of ``forget`` and ``remain``.
        alpha: How many times more a weight must matter; 10 for classes of a ResNet, 5 to 25 of a ViT.
        lam: The dampening.
        square: Where the square is taken.

    Returns:
        The receipt.
    """
    return _dampen("ssd", model, (forget, remain, everything), alpha, lam, square, cross_entropy)


def lfssd(
    model: nn.Module,
    forget: LabelledData,
    remain: LabelledData,
    *,
    everything: LabelledData | None = None,
    alpha: float = 10.0,
    lam: float = 1.0,
    square: Literal["batch", "sample"] = "batch",
) -> Receipt:
    """Dampen as `ssd` does, with importances that need no labels: gradients of the squared norm of the outputs.

    Source: Foster, Schoepf, Brintrup, "Loss-Free Machine Unlearning", ICLR 2024, Tiny Papers. Importances are
    squares here, as in `ssd`, and not magnitudes: their alpha of 10 is 100 here.

    Args:
        model: The classifier, changed in place; in eval mode meanwhile.
        forget: Batches to forget.
        remain: Batches of the remaining data; not used with ``everything``.
        everything: Batches of all training data, those to forget included; None for those of ``forget`` and ``remain``.
        alpha: As for `ssd`.
        lam: As for `ssd`.
        square: As for `ssd`.

    Returns:
        The receipt.
    """
    return _dampen("lfssd", model, (forget, remain, everything), alpha, lam, square, _squared_norm)


def assd(
    model: nn.Module,
    forget: LabelledData,
    remain: LabelledData,
    *,
    everything: LabelledData | None = None,
    lam: float = 1.0,
    square: Literal["batch", "sample"] = "batch",
) -> Receipt:
    """Dampen as `ssd` does, with an alpha that follows from how much is forgotten.

    ``alpha = percentile p of I_Df,i / I_D,i over all weights,  p = 100 - ln(1 + 100 |D_f| / |D|)``

    Source: Schoepf, Foster, Brintrup, "Parameter-Tuning-Free Data Entry Error Unlearning with Adaptive Selective
    Synaptic Dampening", 2024.

    Args:
        model: The classifier, changed in place; in eval mode meanwhile.
        forget: Batches to forget.
        remain: Batches of the remaining data; not used with ``everything``.
        everything: Batches of all training data, those to forget included; None for those of ``forget`` and ``remain``.
        lam: As for `ssd`.
        square: As for `ssd`.

    Returns:
        The receipt.
    """
    return _dampen("assd", model, (forget, remain, everything), None, lam, square, cross_entropy)


def _squared_norm(outputs: Any, _: Tensor) -> Tensor:
    return logits_of(outputs).double().square().sum(1)


def _dampen(
    method: str,
    model: nn.Module,
    data: tuple[LabelledData, LabelledData, LabelledData | None],
    alpha: float | None,
    lam: float,
    square: Literal["batch", "sample"],
    loss: Callable[[Any, Tensor], Tensor],
) -> Receipt:
    forget, remain, everything = data
    threshold: dict[str, float] = {} if alpha is None else {"alpha": alpha}
    with editing(method, model, 0, train=False, **threshold, lam=lam, square=square) as edit:
        samples: Counter[str] = Counter()

        def importance(batches: LabelledData, name: str) -> tuple[dict[str, Tensor], int]:
            """Return the mean square of the gradients, and over how many batches or samples."""

            def squares(inputs: Inputs, targets: Tensor) -> dict[str, Tensor]:
                samples[name] += len(targets)
                return fisher_diagonal(edit.model, inputs, targets, loss=loss, square=square)

            return mean_over_batches(batches, name, squares, per_sample=square == "sample")

        to_forget, forgotten = importance(forget, "forget")
        if everything is None:
            to_others, others = importance(remain, "remain")
            to_all = {
                name: (forgotten * value + others * to_others[name]) / (forgotten + others)
                for name, value in to_forget.items()
            }
        else:
            to_all, _ = importance(everything, "everything")
        if alpha is None:
            share = samples["forget"] / (samples["everything"] or samples["forget"] + samples["remain"])
            alpha = _percentile(to_forget, to_all, 100 - math.log1p(100 * share))
        with torch.no_grad():
            for name, parameter in edit.model.named_parameters():
                chosen = to_forget[name] > alpha * to_all[name]
                factor = (lam * to_all[name] / to_forget[name]).clamp(max=1.0)
                parameter.mul_(torch.where(chosen, factor, 1.0))
    return edit.receipt


def _percentile(to_forget: Mapping[str, Tensor], to_all: Mapping[str, Tensor], percent: float) -> float:
    """Return a percentile of the quotients of importances, where these are finite; infinity where none is."""
    quotients = torch.cat([(to_forget[name] / to_all[name]).flatten().cpu().double() for name in to_forget])
    finite = quotients[quotients.isfinite()].numpy()
    return float(np.percentile(finite, percent)) if len(finite) else math.inf
