"""Distillation from the original model: the student stays near it on what remains and moves away on the rest."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastforget.baselines.editing import editing
from fastforget.baselines.training import descend, divergence, outputs, teacher_outputs, trained_parameters
from fastforget.classifier.compilation import eager
from fastforget.classifier.data_forms import LabelledData
from fastforget.classifier.inputs import Inputs
from fastforget.classifier.labelled_batches import RepeatableBatches
from fastforget.edits.receipt import Receipt

__all__ = ["scrub"]


def scrub(
    model: nn.Module,
    forget: LabelledData,
    remain: LabelledData,
    *,
    gamma: float = 0.99,
    alpha: float = 0.001,
    temperature: float = 4.0,
    epochs: int = 3,
    max_epochs: int = 2,
    lr: float = 5e-4,
    seed: int = 0,
) -> Receipt:
    """Move away from the original model on the samples to forget and stay near it on the others, in turn.

    ::

        max step, in the first ``max_epochs`` epochs:   up    KL(teacher || student)  on D_f
        min step, in every epoch:                       down  gamma CE + alpha KL(teacher || student)  on D_r

    The teacher is the original model; the divergence KL is taken at a temperature. Adam with weight decay 5e-4.

    Source: SCRUB of Kurmanji, Triantafillou, Hayes, Triantafillou, "Towards Unbounded Machine Unlearning", NeurIPS
    2023, without the rewinding of SCRUB+R; the optimiser is ours.

    Args:
        model: The classifier, changed in place.
        forget: Batches to forget.
        remain: Batches of the remaining data.
        gamma: Weight of the cross-entropy.
        alpha: Weight of the divergence on what remains.
        temperature: Of the divergences.
        epochs: Passes over ``remain``.
        max_epochs: How many of these passes come after one over ``forget``.
        lr: The learning rate.
        seed: Of dropout and shuffling.

    Returns:
        The receipt.
    """
    teacher = copy.deepcopy(eager(model)).eval()

    def away(inputs: Inputs, _: Tensor) -> Tensor:
        return -divergence(outputs(edit.model, inputs), teacher_outputs(teacher, inputs), temperature)

    def near(inputs: Inputs, targets: Tensor) -> Tensor:
        logits = outputs(edit.model, inputs)
        apart = divergence(logits, teacher_outputs(teacher, inputs), temperature)
        return gamma * F.cross_entropy(logits, targets) + alpha * apart

    forget, remain = RepeatableBatches(forget, "forget"), RepeatableBatches(remain, "remain")
    with editing(
        "scrub",
        model,
        seed,
        gamma=gamma,
        alpha=alpha,
        temperature=temperature,
        epochs=epochs,
        max_epochs=max_epochs,
        lr=lr,
    ) as edit:
        optimizer = torch.optim.Adam(trained_parameters(edit.model), lr, weight_decay=5e-4)
        for epoch in range(epochs):
            if epoch < max_epochs:
                descend(forget, away, optimizer)
            descend(remain, near, optimizer)
    return edit.receipt
