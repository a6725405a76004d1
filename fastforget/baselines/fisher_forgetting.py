"""Noise where the remaining data does not need the weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastforget.baselines.training import Batches, classifier, editing, outputs
from fastforget.batch import batch_size
from fastforget.fisher import fisher_diagonal

__all__ = ["fisher_forgetting"]

_LARGEST = 1e3  # of the inverse Fisher


def fisher_forgetting(
    model: nn.Module, forget: Batches, remain: Batches, *, alpha: float = 1e-6, seed: int = 0
) -> None:
    """Add noise to each weight, the more the less the remaining data depends on it.

    ``theta_i <- theta_i + sqrt(alpha min(1 / F_i, 1000)) n_i``, with n standard normal and F the per-sample Fisher of
    the remaining data under the model's own labels; ten times the variance in the last layer and in parameters of one
    dimension. Where ``forget`` holds one class only, its row of the last layer is set to zero before.

    Source: Golatkar, Achille, Soatto, "Eternal Sunshine of the Spotless Net", CVPR 2020, with the constants of their
    code but without its special treatment of each layer's mean and of the last layer's bounds.

    Args:
        model: The classifier, changed in place; in eval mode meanwhile.
        forget: Batches to forget; only their classes matter.
        remain: Batches of the remaining data.
        alpha: Scale of the variance.
        seed: Of the noise.
    """
    with editing(model, seed, train=False, alpha=alpha) as edited:
        fisher = _fisher(edited, remain)
        gone, classes = _classes(edited, forget)
        _, _, last = classifier(edited, classes)
        heads = {id(parameter) for parameter in last.parameters()}
        with torch.no_grad():
            if len(gone) == 1:
                for parameter in last.parameters():
                    parameter[gone] = 0
            for name, parameter in edited.named_parameters():
                variance = alpha * fisher[name].reciprocal().clamp(max=_LARGEST)
                if id(parameter) in heads or parameter.dim() == 1:
                    variance *= 10
                parameter.add_(variance.sqrt().to(parameter.dtype) * torch.randn_like(parameter))


def _fisher(model: nn.Module, batches: Batches) -> dict[str, Tensor]:
    total: dict[str, Tensor] = {}
    samples = 0
    for inputs, targets in batches:
        size = batch_size(inputs, targets)
        found = fisher_diagonal(model, inputs, labels="expectation")
        for name, value in found.items():
            total[name] = total.get(name, 0) + size * value
        samples += size
    if not samples:
        raise ValueError("there must be at least one batch, got none")
    return {name: value / samples for name, value in total.items()}


def _classes(model: nn.Module, forget: Batches) -> tuple[list[int], int]:
    """Return the classes to forget, and how many there are in all."""
    found, classes = set[int](), 0
    for inputs, targets in forget:
        found.update(targets.tolist())
        if not classes:
            with torch.no_grad():
                classes = outputs(model, inputs).shape[1]
    if not found:
        raise ValueError("there must be at least one batch, got none")
    return sorted(found), classes
