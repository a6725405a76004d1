"""Training with wrong labels for the samples to forget, of all weights or of the salient ones."""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor, nn

from fastforget.baselines.editing import editing
from fastforget.baselines.masked_step import MaskedStep
from fastforget.baselines.training import descend, label_loss, teacher_outputs, trained_parameters, wrong_labels
from fastforget.classifier.data_forms import Batches, LabelledData
from fastforget.classifier.labelled_batches import RepeatableBatches
from fastforget.classifier.losses import check_depends
from fastforget.classifier.modes import evaluating
from fastforget.edits.receipt import Receipt
from fastforget.functional.topk import topk_mask

__all__ = ["random_labels", "salun"]


def random_labels(
    model: nn.Module, forget: LabelledData, remain: LabelledData, *, epochs: int = 3, lr: float = 1e-4, seed: int = 0
) -> Receipt:
    """Teach wrong labels, drawn anew each time, for the samples to forget, and the right ones for the others.

    ``L = CE(D_f, wrong)`` and then ``CE(D_r)``, batch by batch; Adam.

    Source: Graves, Nagisetty, Ganesh, "Amnesiac Machine Learning", AAAI 2021, the half of it that does not need the
    updates of training; settings as in Foster, Schoepf, Brintrup, AAAI 2024.

    Args:
        model: The classifier, changed in place.
        forget: Batches to forget.
        remain: Batches of the remaining data.
        epochs: Passes over both.
        lr: The learning rate.
        seed: Of the labels, dropout and shuffling.

    Returns:
        The receipt.
    """
    forget, remain = RepeatableBatches(forget, "forget"), RepeatableBatches(remain, "remain")
    with editing("random_labels", model, seed, epochs=epochs, lr=lr) as edit:
        optimizer = torch.optim.Adam(trained_parameters(edit.model), lr)
        for _ in range(epochs):
            descend(_relabelled(edit.model, forget, remain), label_loss(edit.model), optimizer)
    return edit.receipt


def salun(
    model: nn.Module,
    forget: LabelledData,
    remain: LabelledData,
    *,
    share: float = 0.5,
    epochs: int = 10,
    lr: float = 0.013,
    seed: int = 0,
) -> Receipt:
    """Teach wrong labels as `random_labels` does, but move only weights that are salient for the samples to forget.

    ``mask = the share of all weights with the largest |sum over D_f of grad CE|``, selected exactly by
    `fastforget.topk_mask`; then as `random_labels`, with SGD, momentum 0.9 and weight decay 5e-4. Weights outside the
    mask do not change by a bit: neither momentum nor weight decay moves them.

    Source: Fan et al., "SalUn: Empowering Machine Unlearning via Gradient-based Weight Saliency", ICLR 2024.

    Args:
        model: The classifier, changed in place.
        forget: Batches to forget.
        remain: Batches of the remaining data.
        share: Of the weights that move.
        epochs: Passes over both.
        lr: The learning rate.
        seed: Of the labels, dropout and shuffling.

    Returns:
        The receipt.
    """
    forget, remain = RepeatableBatches(forget, "forget"), RepeatableBatches(remain, "remain")
    with editing("salun", model, seed, share=share, epochs=epochs, lr=lr) as edit:
        moving = trained_parameters(edit.model)
        masks = topk_mask(_saliency(edit.model, moving, forget), float(share))
        optimizer = torch.optim.SGD(moving, lr, momentum=0.9, weight_decay=5e-4)
        masked = MaskedStep(optimizer, dict(zip(moving, masks, strict=True)))
        for _ in range(epochs):
            descend(_relabelled(edit.model, forget, remain), label_loss(edit.model), masked)
    return edit.receipt


def _saliency(model: nn.Module, moving: list[nn.Parameter], forget: Batches) -> list[Tensor]:
    loss = label_loss(model)
    total = [torch.zeros_like(parameter) for parameter in moving]
    with evaluating(model):
        for inputs, targets in forget:
            found = loss(inputs, targets)
            check_depends(depends=found.requires_grad)
            gradients = torch.autograd.grad(found, moving, materialize_grads=True)
            total = [one + other for one, other in zip(total, gradients, strict=True)]
    return [value.abs() for value in total]


def _relabelled(model: nn.Module, forget: Batches, remain: Batches) -> Batches:
    """Return the batches of both, those to forget first and with wrong labels."""

    def wrong() -> Batches:
        for inputs, targets in forget:
            with evaluating(model):
                classes = teacher_outputs(model, inputs).shape[1]
            yield inputs, wrong_labels(targets, classes)

    return chain(wrong(), remain)
