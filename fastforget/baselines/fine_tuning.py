"""Training on what remains: from scratch, or on with the model as it is, whole or its last layers."""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from fastforget.baselines.training import Batches, again, descend, editing, layers, outputs, trained_parameters

__all__ = ["cf_k", "fine_tune", "retrain"]


def retrain(model: nn.Module, remain: Batches, *, epochs: int, lr: float = 0.1, seed: int = 0) -> None:
    """Train a fresh model without the samples to forget: what all other methods are judged against.

    SGD with momentum 0.9 and weight decay 5e-4, one cycle of the learning rate; for anything else, use the training
    that the model came from.

    Args:
        model: Freshly initialised; trained in place.
        remain: Batches of the remaining data, as many each time they are gone through; their number must be known.
        epochs: Passes.
        lr: The highest learning rate.
        seed: Of dropout and shuffling.

    Raises:
        ValueError: There is no batch.
    """
    remain = again(remain)
    with editing(model, seed, epochs=epochs, lr=lr) as edited:
        batches: Any = remain
        optimizer = torch.optim.SGD(trained_parameters(edited), lr, momentum=0.9, weight_decay=5e-4)
        steps = epochs * len(batches)
        if steps < 1:
            raise ValueError("there must be at least one batch, got none")
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, cycle_momentum=False)
        for _ in range(epochs):
            for batch in batches:
                descend([batch], lambda x, y: F.cross_entropy(outputs(edited, x), y), optimizer)
                schedule.step()


def fine_tune(model: nn.Module, remain: Batches, *, epochs: int = 10, lr: float = 0.01, seed: int = 0) -> None:
    """Train on with what remains, and hope that the rest is forgotten on the way.

    ``L = CE(D_r)``; SGD with momentum 0.9 and weight decay 5e-4.

    Source: as a baseline since Golatkar, Achille, Soatto, "Eternal Sunshine of the Spotless Net", CVPR 2020. Epochs and
    learning rate are those of Fan et al., "SalUn", ICLR 2024.

    Args:
        model: The classifier, changed in place.
        remain: Batches of the remaining data.
        epochs: Passes.
        lr: The learning rate.
        seed: Of dropout and shuffling.
    """
    remain = again(remain)
    with editing(model, seed, epochs=epochs, lr=lr) as edited:
        _train(edited, trained_parameters(edited), remain, epochs, lr)


def cf_k(model: nn.Module, remain: Batches, *, k: int = 3, epochs: int = 10, lr: float = 0.01, seed: int = 0) -> None:
    """Train on with what remains, the last k layers only (catastrophic forgetting, CF-k).

    Source: Goel et al., "Towards Adversarial Evaluation of Inexact Machine Unlearning", 2022. Layers are modules with
    parameters of their own, in the order in which the model was made; norms count.

    Args:
        model: The classifier, changed in place.
        remain: Batches of the remaining data.
        k: How many layers move.
        epochs: Passes.
        lr: The learning rate.
        seed: Of dropout and shuffling.

    Raises:
        ValueError: There are not so many layers.
    """
    remain = again(remain)
    with editing(model, seed, k=k, epochs=epochs, lr=lr) as edited:
        found = layers(edited)
        if not 1 <= k <= len(found):
            raise ValueError(f"`k` must lie in [1, {len(found)}], got {k}")
        chosen = {id(p): p for layer in found[-k:] for p in layer.parameters(recurse=False) if p.requires_grad}
        # what is frozen stays as it is, statistics of batch norms included
        for module in edited.modules():
            own = chain(module.parameters(recurse=False), module.buffers(recurse=False))
            if module not in found[-k:] and next(own, None) is not None:
                module.training = False
        _train(edited, list(chosen.values()), remain, epochs, lr)


def _train(model: nn.Module, moving: list[nn.Parameter], remain: Batches, epochs: int, lr: float) -> None:
    optimizer = torch.optim.SGD(moving, lr, momentum=0.9, weight_decay=5e-4)
    for _ in range(epochs):
        descend(remain, lambda x, y: F.cross_entropy(outputs(model, x), y), optimizer)
