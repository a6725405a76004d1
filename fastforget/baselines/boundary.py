"""Moving the decision boundary: samples to forget go to their neighbours, or to a class that is then dropped."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastforget.baselines.training import Batches, again, classifier, descend, editing, outputs, trained_parameters
from fastforget.model import evaluating

__all__ = ["boundary_expand", "boundary_shrink"]


def boundary_shrink(
    model: nn.Module, forget: Batches, *, epsilon: float = 0.1, epochs: int = 10, lr: float = 1e-5, seed: int = 0
) -> None:
    """Teach for each sample to forget the class that it is nearest to, beside its own.

    The neighbour is what the original makes of ``x + epsilon sign(grad_x CE)``; where that is still the own class, its
    second choice. SGD with momentum 0.9.

    Source: Chen, Gao, Liu, Peng, Wang, "Boundary Unlearning", CVPR 2023, boundary shrinking.

    Args:
        model: The classifier of inputs that are one floating-point tensor, changed in place.
        forget: Batches to forget.
        epsilon: How far a neighbour is looked for.
        epochs: Passes over ``forget``.
        lr: The learning rate.
        seed: Of dropout and shuffling.

    Raises:
        TypeError: Inputs are not one floating-point tensor.
    """
    forget = again(forget)
    with editing(model, seed, epsilon=epsilon, epochs=epochs, lr=lr) as edited:
        with evaluating(edited):
            moved = [(x, _neighbours(edited, x, y, epsilon)) for x, y in forget]
        optimizer = torch.optim.SGD(trained_parameters(edited), lr, momentum=0.9)
        for _ in range(epochs):
            descend(moved, lambda x, y: F.cross_entropy(outputs(edited, x), y), optimizer)


def boundary_expand(model: nn.Module, forget: Batches, *, epochs: int = 10, lr: float = 1e-5, seed: int = 0) -> None:
    """Teach that samples to forget are of a class of their own, which is dropped afterwards.

    SGD with momentum 0.9.

    Source: Chen, Gao, Liu, Peng, Wang, "Boundary Unlearning", CVPR 2023, boundary expanding.

    Args:
        model: The classifier, changed in place; its last linear layer has one output for each class.
        forget: Batches to forget.
        epochs: Passes over ``forget``.
        lr: The learning rate.
        seed: Of the new class's weights, dropout and shuffling.

    Raises:
        ValueError: There is no batch, or no such layer.
    """
    forget = again(forget)
    with editing(model, seed, epochs=epochs, lr=lr) as edited:
        first = next(iter(forget), None)
        if first is None:
            raise ValueError("there must be at least one batch, got none")
        with torch.no_grad(), evaluating(edited):
            classes = outputs(edited, first[0]).shape[1]
        parent, name, narrow = classifier(edited, classes)
        wide = _widened(narrow)
        setattr(parent, name, wide)
        try:
            optimizer = torch.optim.SGD(trained_parameters(edited), lr, momentum=0.9)
            shadow = ((x, torch.full_like(y, classes)) for _ in range(epochs) for x, y in forget)
            descend(shadow, lambda x, y: F.cross_entropy(outputs(edited, x), y), optimizer)
        finally:
            setattr(parent, name, narrow)
        with torch.no_grad():
            for kept, grown in zip(narrow.parameters(), wide.parameters(), strict=True):
                kept.copy_(grown[:classes])


def _neighbours(model: nn.Module, x: Tensor, y: Tensor, epsilon: float) -> Tensor:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError("`forget` must hold inputs that are one floating-point tensor")
    x = x.detach().requires_grad_()
    (slope,) = torch.autograd.grad(F.cross_entropy(outputs(model, x), y), [x])
    with torch.no_grad():
        logits = outputs(model, x + epsilon * slope.sign())
    return logits.scatter(1, y[:, None], -torch.inf).argmax(1)


def _widened(layer: nn.Linear) -> nn.Linear:
    """Return the layer with one output more, in the same mode."""
    like = layer.weight
    wide = nn.Linear(
        layer.in_features, layer.out_features + 1, layer.bias is not None, device=like.device, dtype=like.dtype
    )
    with torch.no_grad():
        for grown, kept in zip(wide.parameters(), layer.parameters(), strict=True):
            grown[: len(kept)] = kept
    for grown, kept in zip(wide.parameters(), layer.parameters(), strict=True):
        grown.requires_grad_(kept.requires_grad)
    return wide.train(layer.training)
