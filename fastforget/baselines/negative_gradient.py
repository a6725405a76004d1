"""Ascent on the loss of the samples to forget, alone or with descent on that of the others."""

from __future__ import annotations

import torch
from torch import nn

from fastforget.baselines.batches import paired
from fastforget.baselines.editing import editing
from fastforget.baselines.training import descend, label_loss, step_down, trained_parameters
from fastforget.classifier.data_forms import LabelledData
from fastforget.classifier.labelled_batches import RepeatableBatches
from fastforget.edits.receipt import Receipt

__all__ = ["neg_grad", "neg_grad_plus"]


def neg_grad(
    model: nn.Module,
    forget: LabelledData,
    remain: LabelledData,  # noqa: ARG001 (all methods are called alike)
    *,
    epochs: int = 5,
    lr: float = 1e-4,
    seed: int = 0,
) -> Receipt:
    """Go up the loss of the samples to forget (gradient ascent): ``L = -CE(D_f)``.

    Source: Golatkar, Achille, Soatto, "Eternal Sunshine of the Spotless Net", CVPR 2020; SGD with momentum 0.9. The
    loss has no bound: epochs and learning rate decide how far it goes, and are ours.

    Args:
        model: The classifier, changed in place.
        forget: Batches to forget.
        remain: Batches of the remaining data; not used.
        epochs: Passes.
        lr: The learning rate.
        seed: Of dropout and shuffling.

    Returns:
        The receipt.
    """
    forget = RepeatableBatches(forget, "forget")
    with editing("neg_grad", model, seed, epochs=epochs, lr=lr) as edit:
        loss = label_loss(edit.model)
        optimizer = torch.optim.SGD(trained_parameters(edit.model), lr, momentum=0.9)
        for _ in range(epochs):
            descend(forget, lambda inputs, targets: -loss(inputs, targets), optimizer)
    return edit.receipt


def neg_grad_plus(
    model: nn.Module,
    forget: LabelledData,
    remain: LabelledData,
    *,
    alpha: float = 0.95,
    epochs: int = 5,
    lr: float = 0.01,
    seed: int = 0,
) -> Receipt:
    """Go up the loss of the samples to forget and down that of the others at once.

    ``L = alpha CE(D_r) - (1 - alpha) CE(D_f)``, a batch of each per step.

    Source: NegGrad+ of Kurmanji, Triantafillou, Hayes, Triantafillou, "Towards Unbounded Machine Unlearning", NeurIPS
    2023; SGD with momentum 0.9 and weight decay 5e-4. Their alpha is tuned for each data set; ours is fixed.

    Args:
        model: The classifier, changed in place.
        forget: Batches to forget; they start again until ``remain`` ends.
        remain: Batches of the remaining data.
        alpha: Weight of the remaining data.
        epochs: Passes over ``remain``.
        lr: The learning rate.
        seed: Of dropout and shuffling.

    Returns:
        The receipt.
    """
    forget, remain = RepeatableBatches(forget, "forget"), RepeatableBatches(remain, "remain")
    with editing("neg_grad_plus", model, seed, alpha=alpha, epochs=epochs, lr=lr) as edit:
        loss = label_loss(edit.model)
        optimizer = torch.optim.SGD(trained_parameters(edit.model), lr, momentum=0.9, weight_decay=5e-4)
        for _ in range(epochs):
            for remaining, forgotten in paired(remain, forget):
                step_down(alpha * loss(*remaining) - (1 - alpha) * loss(*forgotten), optimizer)
    return edit.receipt
