"""Noise that a class's weights answer to, to impair them; then repair."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastforget.baselines.training import Batches, again, descend, editing, outputs, paired, trained_parameters
from fastforget.model import evaluating

__all__ = ["unsir"]


def unsir(
    model: nn.Module,
    forget: Batches,
    remain: Batches,
    *,
    noise_steps: int = 40,
    noise_lr: float = 0.1,
    penalty: float = 0.1,
    impair_lr: float = 0.02,
    repair_lr: float = 0.01,
    seed: int = 0,
) -> None:
    """Forget whole classes by noise of the largest loss, shown with their labels, then a pass over what remains.

    ::

        N = argmin -CE(f(N), c) + penalty |N|^2         a batch of noise for each class c, by Adam
        impair: one pass over D_r with a batch of noise beside each of its own, down CE;  repair: one pass over D_r

    Adam throughout.

    Source: UNSIR of Tarun, Chundawat, Mandal, Kankanhalli, "Fast Yet Effective Machine Unlearning", TNNLS 2023. The
    samples to forget are not looked at: of ``forget`` only the shape and the classes are used.

    Args:
        model: The classifier of inputs that are one floating-point tensor, changed in place.
        forget: Batches of the classes to forget.
        remain: Batches of the remaining data.
        noise_steps: Steps for the noise of each class.
        noise_lr: Their learning rate.
        penalty: Of the square of the noise of a sample.
        impair_lr: Learning rate of the first pass.
        repair_lr: Learning rate of the second.
        seed: Of the noise, dropout and shuffling.

    Raises:
        TypeError: Inputs are not one floating-point tensor.
    """
    remain = again(remain)
    with editing(
        model,
        seed,
        noise_steps=noise_steps,
        noise_lr=noise_lr,
        penalty=penalty,
        impair_lr=impair_lr,
        repair_lr=repair_lr,
    ) as edited:
        noise = [_noise(edited, like, cls, noise_steps, noise_lr, penalty) for cls, like in _shapes(forget).items()]
        moving = trained_parameters(edited)
        optimizer = torch.optim.Adam(moving, impair_lr)
        for (x, y), (n, c) in paired(remain, noise):
            both = torch.cat([x, n]), torch.cat([y, c])
            descend([both], lambda a, b: F.cross_entropy(outputs(edited, a), b), optimizer)
        optimizer = torch.optim.Adam(moving, repair_lr)
        descend(remain, lambda a, b: F.cross_entropy(outputs(edited, a), b), optimizer)


def _shapes(forget: Batches) -> dict[int, Tensor]:
    """Return a batch for the shape of each class's noise."""
    found: dict[int, Tensor] = {}
    for inputs, targets in forget:
        if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
            raise TypeError("`forget` must hold inputs that are one floating-point tensor")
        for cls in targets.unique().tolist():
            found.setdefault(cls, inputs)
    if not found:
        raise ValueError("there must be at least one batch, got none")
    return found


def _noise(model: nn.Module, like: Tensor, cls: int, steps: int, lr: float, penalty: float) -> tuple[Tensor, Tensor]:
    """Return noise on which the loss of a class is as large as can be, with its labels."""
    noise = torch.randn_like(like).requires_grad_()
    labels = torch.full((len(like),), cls, device=like.device)
    optimizer = torch.optim.Adam([noise], lr)
    with evaluating(model):
        for _ in range(steps):
            loss = penalty * noise.square().flatten(1).sum(1).mean() - F.cross_entropy(outputs(model, noise), labels)
            (noise.grad,) = torch.autograd.grad(loss, [noise])
            optimizer.step()
    return noise.detach(), labels
