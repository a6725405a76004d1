"""Smoothing of the outputs around the samples to forget."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastforget.baselines.batches import one_tensor
from fastforget.baselines.editing import editing
from fastforget.baselines.training import descend, outputs, teacher_outputs, trained_parameters
from fastforget.classifier.data_forms import LabelledData
from fastforget.classifier.inputs import Inputs
from fastforget.classifier.labelled_batches import RepeatableBatches
from fastforget.edits.receipt import Receipt

__all__ = ["jit"]


def jit(
    model: nn.Module,
    forget: LabelledData,
    remain: LabelledData,  # noqa: ARG001 (all methods are called alike)
    *,
    sigma: float = 0.5,
    copies: int = 25,
    epochs: int = 3,
    lr: float = 0.3,
    seed: int = 0,
) -> Receipt:
    """Move the outputs for the samples to forget towards those for noisy copies of them (JiT, just in time).

    ``L = mean over D_f and over N draws of |f(x) - f(x + xi)|_2 / |xi|_2,  xi ~ N(0, sigma^2)``: an estimate of the
    Lipschitz constant around x, with logits f; SGD. No other data is looked at.

    Source: Foster, Fogarty, Schoepf, Oztireli, Brintrup, "Zero-Shot Machine Unlearning at Scale via Lipschitz
    Regularization", 2024. They tune the noise and the learning rate for each network and data set; the settings here
    are ours. As in code that follows theirs, f(x + xi) is held fixed in each step. The model is in eval mode meanwhile,
    so that both differ by the noise alone.

    Args:
        model: The classifier of inputs that are one floating-point tensor, changed in place.
        forget: Batches to forget.
        remain: Batches of the remaining data; not used.
        sigma: Standard deviation of the noise, in the units of the inputs.
        copies: Draws of noise for each sample, N.
        epochs: Passes over ``forget``.
        lr: The learning rate.
        seed: Of the noise and shuffling.

    Returns:
        The receipt.

    Raises:
        TypeError: Inputs are not one floating-point tensor.
    """
    forget = RepeatableBatches(forget, "forget")
    with editing("jit", model, seed, train=False, sigma=sigma, copies=copies, epochs=epochs, lr=lr) as edit:

        def loss(inputs: Inputs, targets: Tensor) -> Tensor:
            x = one_tensor(inputs, "forget")
            clean = outputs(edit.model, x)
            total = clean.new_zeros(len(targets))
            for _ in range(copies):
                noise = sigma * torch.randn_like(x)
                apart = torch.linalg.vector_norm(clean - teacher_outputs(edit.model, x + noise), dim=1)
                total = total + apart / noise.flatten(1).norm(dim=1)
            return total.mean() / copies

        optimizer = torch.optim.SGD(trained_parameters(edit.model), lr)
        for _ in range(epochs):
            descend(forget, loss, optimizer)
    return edit.receipt
