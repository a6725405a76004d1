"""Distillation from the network itself, made as unsure as it is of unseen samples."""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastforget.baselines.batches import mixed
from fastforget.baselines.editing import editing
from fastforget.baselines.training import Loss, descend, outputs, teacher_outputs, trained_parameters
from fastforget.classifier.compilation import eager
from fastforget.classifier.data_forms import LabelledData
from fastforget.classifier.inputs import Inputs
from fastforget.classifier.labelled_batches import RepeatableBatches
from fastforget.classifier.predictions import measure_accuracy
from fastforget.edits.receipt import Receipt

__all__ = ["lotus"]

_ENOUGH = 0.01  # so far below the goal, the accuracy on what is forgotten ends the training


def lotus(
    model: nn.Module,
    forget: LabelledData,
    remain: LabelledData,
    *,
    unseen: LabelledData | None = None,
    alpha: float = 2.0,
    share: float = 0.3,
    epochs: int = 10,
    lr: float = 1e-4,
    seed: int = 0,
) -> Receipt:
    """Learn from the original network, smoothed on the samples to forget until they are no better known than unseen.

    ``L = CE(gumbel(z, tau_d), student) on D_f,  CE(gumbel(z, tau -> 0), student) on a share of D_r``, with the
    original's logits z and the Gumbel softmax, whose limit for tau -> 0 is a class drawn from softmax(z). Before each
    epoch ``tau_d = exp(alpha (Acc(student, D_f) - Acc(original, D_u)))``. AdamW with weight decay 5e-4. The training
    ends early once the accuracy on D_f is a point below the goal.

    Source: Spartalis, Semertzidis, Gavves, Daras, "LoTUS: Large-Scale Machine Unlearning with a Taste of Uncertainty",
    CVPR 2025; settings for a ResNet-18. A step takes a batch of one kind; theirs mixes both.

    Args:
        model: The classifier, changed in place.
        forget: Batches to forget.
        remain: Batches of the remaining data.
        unseen: Batches of data that the model was not trained on, D_u; needed where samples of a class to forget
            remain. Otherwise the goal is an accuracy of 0.
        alpha: How fast the temperature follows the accuracy.
        share: What share of the batches of ``remain`` is used.
        epochs: The most passes.
        lr: The learning rate.
        seed: Of the draws, dropout and shuffling.

    Returns:
        The receipt.

    Raises:
        ValueError: ``unseen`` is needed and not given.
    """
    original = copy.deepcopy(eager(model)).eval()
    gone, kept = RepeatableBatches(forget, "forget"), RepeatableBatches(remain, "remain")
    with editing("lotus", model, seed, alpha=alpha, share=share, epochs=epochs, lr=lr) as edit:
        goal = 0.0
        if _classes(gone) & _classes(kept):
            if unseen is None:
                raise ValueError("`unseen` must be given where samples of a class to forget remain, got none")
            goal = measure_accuracy(original, unseen, "unseen")

        def taught(temperature: float | None) -> Loss:
            def loss(inputs: Inputs, _: Tensor) -> Tensor:
                logits, hard = teacher_outputs(original, inputs), temperature is None
                told = F.gumbel_softmax(logits, 1.0 if temperature is None else temperature, hard=hard)
                return F.cross_entropy(outputs(edit.model, inputs), told)

            return loss

        optimizer = torch.optim.AdamW(trained_parameters(edit.model), lr, weight_decay=5e-4)
        for _ in range(epochs):
            above = measure_accuracy(edit.model, gone, "forget") - goal
            if above <= -_ENOUGH:
                break
            losses = {False: taught(math.exp(alpha * above)), True: taught(None)}
            for remains, batch in mixed(gone, kept, share):
                descend([batch], losses[remains], optimizer)
    return edit.receipt


def _classes(batches: RepeatableBatches) -> set[int]:
    return {target for _, targets in batches for target in targets.unique().tolist()}
