"""Distillation from two teachers: a random network for the samples to forget, the original one for the others."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from fastforget.baselines.batches import mixed
from fastforget.baselines.editing import editing
from fastforget.baselines.training import Loss, descend, divergence, outputs, teacher_outputs, trained_parameters
from fastforget.classifier.compilation import eager
from fastforget.classifier.data_forms import LabelledData
from fastforget.classifier.inputs import Inputs
from fastforget.classifier.labelled_batches import RepeatableBatches
from fastforget.edits.receipt import Receipt

__all__ = ["bad_teacher"]


def bad_teacher(
    model: nn.Module,
    forget: LabelledData,
    remain: LabelledData,
    *,
    share: float = 0.3,
    epochs: int = 1,
    lr: float = 1e-4,
    temperature: float = 1.0,
    seed: int = 0,
) -> Receipt:
    """Learn from a randomly initialised network on the samples to forget, and from the original one on some others.

    ``L = KL(random || student) on D_f, KL(original || student) on a share of D_r``; Adam.

    Source: Chundawat, Tarun, Mandal, Kankanhalli, "Can Bad Teaching Induce Forgetting?", AAAI 2023. A step takes a
    batch of one kind; theirs mixes both.

    Args:
        model: The classifier, changed in place. The random teacher has its layers, each of which must have
            ``reset_parameters``.
        forget: Batches to forget.
        remain: Batches of the remaining data.
        share: What share of the batches of ``remain`` is used.
        epochs: Passes.
        lr: The learning rate.
        temperature: Of the divergences.
        seed: Of the random teacher, dropout and shuffling.

    Returns:
        The receipt.

    Raises:
        ValueError: A layer cannot be initialised again.
    """
    original = copy.deepcopy(eager(model)).eval()
    gone, kept = RepeatableBatches(forget, "forget"), RepeatableBatches(remain, "remain")
    with editing("bad_teacher", model, seed, share=share, epochs=epochs, lr=lr, temperature=temperature) as edit:

        def taught_by(teacher: nn.Module) -> Loss:
            def loss(inputs: Inputs, _: Tensor) -> Tensor:
                told = teacher_outputs(teacher, inputs)
                return divergence(outputs(edit.model, inputs), told, temperature)

            return loss

        losses = {False: taught_by(_reinitialised(edit.model)), True: taught_by(original)}
        optimizer = torch.optim.Adam(trained_parameters(edit.model), lr)
        for _ in range(epochs):
            for remains, batch in mixed(gone, kept, share):
                descend([batch], losses[remains], optimizer)
    return edit.receipt


def _reinitialised(model: nn.Module) -> nn.Module:
    """Return the same network with fresh random parameters, in eval mode."""
    network = copy.deepcopy(model)
    for path, module in network.named_modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
        elif next(module.parameters(recurse=False), None) is not None:
            raise ValueError(f"module `{path}` must have reset_parameters, for a random teacher")
    return network.eval()
