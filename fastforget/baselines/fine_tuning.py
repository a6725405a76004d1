"""Training on what remains: of a fresh model, of the model as it is, or of its last layers."""

from __future__ import annotations

from itertools import chain

import torch
from torch import nn

from fastforget.baselines.editing import editing
from fastforget.baselines.layers import layers_with_parameters
from fastforget.baselines.training import descend, label_loss, trained_parameters
from fastforget.classifier.data_forms import Batches, LabelledData
from fastforget.classifier.labelled_batches import RepeatableBatches
from fastforget.edits.receipt import Receipt

__all__ = ["cf_k", "fine_tune", "retrain"]


def retrain(
    model: nn.Module,
    forget: LabelledData,  # noqa: ARG001 (all methods are called alike)
    remain: LabelledData,
    *,
    epochs: int,
    lr: float = 0.1,
    seed: int = 0,
) -> Receipt:
    """Train a fresh model without the samples to forget; all other methods are compared with the result.

    SGD with momentum 0.9 and weight decay 5e-4, one cycle of the learning rate. For anything else, use the training
    that the original model came from.

    Args:
        model: Freshly initialised; trained in place.
        forget: Batches to forget; not used.
        remain: Batches of the remaining data. Their number must be known, and the same in each pass.
        epochs: Passes.
        lr: The highest learning rate.
        seed: Of dropout and shuffling.

    Returns:
        The receipt.

    Raises:
        ValueError: There is no batch.
    """
    batches = RepeatableBatches(remain, "remain")
    with editing("retrain", model, seed, epochs=epochs, lr=lr) as edit:
        optimizer = torch.optim.SGD(trained_parameters(edit.model), lr, momentum=0.9, weight_decay=5e-4)
        steps = max(1, epochs * len(batches))  # if there is no batch, the first pass says so
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, cycle_momentum=False)
        for _ in range(epochs):
            for batch in batches:
                descend([batch], label_loss(edit.model), optimizer)
                schedule.step()
    return edit.receipt


def fine_tune(
    model: nn.Module,
    forget: LabelledData,  # noqa: ARG001 (all methods are called alike)
    remain: LabelledData,
    *,
    epochs: int = 10,
    lr: float = 0.01,
    seed: int = 0,
) -> Receipt:
    """Continue the training with what remains; the rest may be forgotten on the way.

    ``L = CE(D_r)``; SGD with momentum 0.9 and weight decay 5e-4.

    Source: a baseline since Golatkar, Achille, Soatto, "Eternal Sunshine of the Spotless Net", CVPR 2020. Epochs and
    learning rate are those of Fan et al., "SalUn", ICLR 2024.

    Args:
        model: The classifier, changed in place.
        forget: Batches to forget; not used.
        remain: Batches of the remaining data.
        epochs: Passes.
        lr: The learning rate.
        seed: Of dropout and shuffling.

    Returns:
        The receipt.
    """
    remain = RepeatableBatches(remain, "remain")
    with editing("fine_tune", model, seed, epochs=epochs, lr=lr) as edit:
        _train(edit.model, trained_parameters(edit.model), remain, epochs, lr)
    return edit.receipt


def cf_k(
    model: nn.Module,
    forget: LabelledData,  # noqa: ARG001 (all methods are called alike)
    remain: LabelledData,
    *,
    k: int = 3,
    epochs: int = 10,
    lr: float = 0.01,
    seed: int = 0,
) -> Receipt:
    """Continue the training of the last k layers with what remains (catastrophic forgetting, CF-k).

    Source: Goel et al., "Towards Adversarial Evaluation of Inexact Machine Unlearning", 2022. Layers are modules with
    parameters of their own, in the order in which the model was made; norms count.

    Args:
        model: The classifier, changed in place.
        forget: Batches to forget; not used.
        remain: Batches of the remaining data.
        k: How many layers move.
        epochs: Passes.
        lr: The learning rate.
        seed: Of dropout and shuffling.

    Returns:
        The receipt.

    Raises:
        ValueError: There are not so many layers.
    """
    remain = RepeatableBatches(remain, "remain")
    with editing("cf_k", model, seed, k=k, epochs=epochs, lr=lr) as edit:
        layers = layers_with_parameters(edit.model)
        if not 1 <= k <= len(layers):
            raise ValueError(f"`k` must lie in [1, {len(layers)}], got {k}")
        last = layers[-k:]
        moving = {id(p): p for layer in last for p in layer.parameters(recurse=False) if p.requires_grad}
        # what is frozen stays as it is, statistics of batch norms included
        for module in edit.model.modules():
            own = chain(module.parameters(recurse=False), module.buffers(recurse=False))
            if module not in last and next(own, None) is not None:
                module.training = False
        _train(edit.model, list(moving.values()), remain, epochs, lr)
    return edit.receipt


def _train(model: nn.Module, moving: list[nn.Parameter], remain: Batches, epochs: int, lr: float) -> None:
    optimizer = torch.optim.SGD(moving, lr, momentum=0.9, weight_decay=5e-4)
    for _ in range(epochs):
        descend(remain, label_loss(model), optimizer)
