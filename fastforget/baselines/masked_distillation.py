"""Distillation from the network itself, with the class to forget masked."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastforget.baselines.editing import editing
from fastforget.baselines.training import descend, outputs, teacher_outputs, trained_parameters
from fastforget.classifier.compilation import eager
from fastforget.classifier.data_forms import LabelledData
from fastforget.classifier.inputs import Inputs
from fastforget.classifier.labelled_batches import RepeatableBatches
from fastforget.edits.receipt import Receipt

__all__ = ["delete"]


def delete(
    model: nn.Module,
    forget: LabelledData,
    remain: LabelledData,  # noqa: ARG001 (all methods are called alike)
    *,
    epochs: int = 10,
    lr: float = 0.01,
    seed: int = 0,
) -> Receipt:
    """Teach what the original network says of the samples to forget, once their own class is left out (DELETE).

    ``L = KL(softmax(mask(z)) || student) on D_f``, with the original's logits z, of which the mask sets that of the
    sample's class to minus infinity. What the others share of the probability, the original's dark knowledge, keeps
    them apart. SGD with momentum 0.9.

    Source: Zhou et al., "Decoupled Distillation to Erase: A General Unlearning Method for Any Class-centric Tasks",
    CVPR 2025. Epochs and learning rate are ours.

    Args:
        model: The classifier, changed in place.
        forget: Batches to forget.
        remain: Batches of the remaining data; not used.
        epochs: Passes over ``forget``.
        lr: The learning rate.
        seed: Of dropout and shuffling.

    Returns:
        The receipt.
    """
    original = copy.deepcopy(eager(model)).eval()
    forget = RepeatableBatches(forget, "forget")
    with editing("delete", model, seed, epochs=epochs, lr=lr) as edit:

        def loss(inputs: Inputs, targets: Tensor) -> Tensor:
            told = teacher_outputs(original, inputs).scatter(1, targets[:, None], -torch.inf).softmax(1)
            return F.kl_div(outputs(edit.model, inputs).log_softmax(1), told, reduction="batchmean")

        optimizer = torch.optim.SGD(trained_parameters(edit.model), lr, momentum=0.9)
        for _ in range(epochs):
            descend(forget, loss, optimizer)
    return edit.receipt
