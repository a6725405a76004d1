"""Ascent on the loss of what is to be forgotten, alone or held back by what remains."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from fastforget.baselines.training import Batches, again, descend, editing, outputs, paired, step, trained_parameters

__all__ = ["neg_grad", "neg_grad_plus"]


def neg_grad(model: nn.Module, forget: Batches, *, epochs: int = 5, lr: float = 1e-4, seed: int = 0) -> None:
    """Go up the loss of the samples to forget (gradient ascent): ``L = -CE(D_f)``.

    Source: Golatkar, Achille, Soatto, "Eternal Sunshine of the Spotless Net", CVPR 2020; SGD with momentum 0.9. It goes
    on without end: epochs and learning rate decide, and are ours.

    Args:
        model: The classifier, changed in place.
        forget: Batches to forget.
        epochs: Passes.
        lr: The learning rate.
        seed: Of dropout and shuffling.
    """
    forget = again(forget)
    with editing(model, seed, epochs=epochs, lr=lr) as edited:
        optimizer = torch.optim.SGD(trained_parameters(edited), lr, momentum=0.9)
        for _ in range(epochs):
            descend(forget, lambda x, y: -F.cross_entropy(outputs(edited, x), y), optimizer)


def neg_grad_plus(
    model: nn.Module,
    forget: Batches,
    remain: Batches,
    *,
    alpha: float = 0.95,
    epochs: int = 5,
    lr: float = 0.01,
    seed: int = 0,
) -> None:
    """Go up the loss of the samples to forget and down that of the remaining ones at once.

    ``L = alpha CE(D_r) - (1 - alpha) CE(D_f)``, a batch of each per step.

    Source: NegGrad+ of Kurmanji, Triantafillou, Hayes, Triantafillou, "Towards Unbounded Machine Unlearning", NeurIPS
    2023; SGD with momentum 0.9 and weight decay 5e-4. Their alpha is tuned for each data set; ours is fixed.

    Args:
        model: The classifier, changed in place.
        forget: Batches to forget; gone through as often as ``remain`` takes.
        remain: Batches of the remaining data.
        alpha: Weight of the remaining data.
        epochs: Passes over ``remain``.
        lr: The learning rate.
        seed: Of dropout and shuffling.
    """
    forget, remain = again(forget), again(remain)
    with editing(model, seed, alpha=alpha, epochs=epochs, lr=lr) as edited:
        optimizer = torch.optim.SGD(trained_parameters(edited), lr, momentum=0.9, weight_decay=5e-4)

        for _ in range(epochs):
            for batches in paired(remain, forget):
                kept, gone = (F.cross_entropy(outputs(edited, inputs), targets) for inputs, targets in batches)
                step(alpha * kept - (1 - alpha) * gone, optimizer)
