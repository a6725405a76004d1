"""Impair the weights of a class by training with noise, then repair the rest."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastforget.baselines.batches import one_tensor, paired
from fastforget.baselines.editing import editing
from fastforget.baselines.training import descend, label_loss, outputs, trained_parameters
from fastforget.classifier.data_forms import LabelledData
from fastforget.classifier.labelled_batches import RepeatableBatches, sized_batches
from fastforget.classifier.modes import evaluating
from fastforget.edits.receipt import Receipt

__all__ = ["unsir"]


def unsir(
    model: nn.Module,
    forget: LabelledData,
    remain: LabelledData,
    *,
    noise_steps: int = 40,
    noise_lr: float = 0.1,
    penalty: float = 0.1,
    impair_lr: float = 0.02,
    repair_lr: float = 0.01,
    seed: int = 0,
) -> Receipt:
    """Forget whole classes by training with noise that has their labels; then train with what remains.

    ::

        N = argmin -CE(f(N), c) + penalty |N|^2         for each class c a batch of noise with a large loss
        impair: one pass over D_r, a batch of noise added to each of its batches, down CE
        repair: one pass over D_r, down CE

    All steps are Adam's.

    Source: UNSIR of Tarun, Chundawat, Mandal, Kankanhalli, "Fast Yet Effective Machine Unlearning", TNNLS 2023. Of
    ``forget`` only the shape and the classes are used, not the samples.

    Args:
        model: The classifier of inputs that are one floating-point tensor, changed in place.
        forget: Batches of the classes to forget.
        remain: Batches of the remaining data.
        noise_steps: Steps for the noise of each class.
        noise_lr: The learning rate of these steps.
        penalty: Weight of the squared norm of the noise.
        impair_lr: Learning rate of the impairing pass.
        repair_lr: Learning rate of the repairing pass.
        seed: Of the noise, dropout and shuffling.

    Returns:
        The receipt.

    Raises:
        TypeError: Inputs are not one floating-point tensor.
    """
    remain = RepeatableBatches(remain, "remain")
    with editing(
        "unsir",
        model,
        seed,
        noise_steps=noise_steps,
        noise_lr=noise_lr,
        penalty=penalty,
        impair_lr=impair_lr,
        repair_lr=repair_lr,
    ) as edit:
        examples = _examples(forget)
        noise = [_noise(edit.model, like, cls, noise_steps, noise_lr, penalty) for cls, like in examples.items()]
        moving = trained_parameters(edit.model)
        optimizer = torch.optim.Adam(moving, impair_lr)
        for (x, y), (n, c) in paired(remain, noise):
            descend([(torch.cat([one_tensor(x, "remain"), n]), torch.cat([y, c]))], label_loss(edit.model), optimizer)
        optimizer = torch.optim.Adam(moving, repair_lr)
        descend(remain, label_loss(edit.model), optimizer)
    return edit.receipt


def _examples(forget: LabelledData) -> dict[int, Tensor]:
    """Return a batch of inputs for each class, in the shape of its noise."""
    examples: dict[int, Tensor] = {}
    for inputs, targets in sized_batches(forget, "forget"):
        tensor = one_tensor(inputs, "forget")
        for cls in targets.unique().tolist():
            examples.setdefault(cls, tensor)
    return examples


def _noise(model: nn.Module, like: Tensor, cls: int, steps: int, lr: float, penalty: float) -> tuple[Tensor, Tensor]:
    """Return noise for which the loss of a class is large, with labels of the class."""
    noise = torch.randn_like(like).requires_grad_()
    labels = torch.full((len(like),), cls, device=like.device)
    optimizer = torch.optim.Adam([noise], lr)
    with evaluating(model):
        for _ in range(steps):
            loss = penalty * noise.square().flatten(1).sum(1).mean() - F.cross_entropy(outputs(model, noise), labels)
            (noise.grad,) = torch.autograd.grad(loss, [noise])
            optimizer.step()
    return noise.detach(), labels
