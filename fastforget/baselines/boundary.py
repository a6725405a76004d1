"""Boundary unlearning: samples to forget move to the nearest class, or to a class that is then dropped."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastforget.baselines.batches import one_tensor
from fastforget.baselines.editing import editing
from fastforget.baselines.layers import output_layer
from fastforget.baselines.training import descend, label_loss, outputs, teacher_outputs, trained_parameters
from fastforget.classifier.data_forms import LabelledData
from fastforget.classifier.inputs import Inputs
from fastforget.classifier.labelled_batches import RepeatableBatches
from fastforget.classifier.modes import evaluating
from fastforget.edits.receipt import Receipt

__all__ = ["boundary_expand", "boundary_shrink"]


def boundary_shrink(
    model: nn.Module,
    forget: LabelledData,
    remain: LabelledData,  # noqa: ARG001 (all methods are called alike)
    *,
    epsilon: float = 0.1,
    epochs: int = 10,
    lr: float = 1e-5,
    seed: int = 0,
) -> Receipt:
    """Teach for each sample to forget the nearest class beside its own.

    The nearest class is the original model's prediction for ``x + epsilon sign(grad_x CE)``, the sample's own class
    left out. SGD with momentum 0.9.

    Source: Chen, Gao, Liu, Peng, Wang, "Boundary Unlearning", CVPR 2023, boundary shrinking.

    Args:
        model: The classifier of inputs that are one floating-point tensor, changed in place.
        forget: Batches to forget.
        remain: Batches of the remaining data; not used.
        epsilon: How far the nearest class is looked for.
        epochs: Passes over ``forget``.
        lr: The learning rate.
        seed: Of dropout and shuffling.

    Returns:
        The receipt.

    Raises:
        TypeError: Inputs are not one floating-point tensor.
    """
    forget = RepeatableBatches(forget, "forget")
    with editing("boundary_shrink", model, seed, epsilon=epsilon, epochs=epochs, lr=lr) as edit:
        with evaluating(edit.model):
            relabelled = [(x, _nearest_classes(edit.model, x, y, epsilon)) for x, y in forget]
        optimizer = torch.optim.SGD(trained_parameters(edit.model), lr, momentum=0.9)
        for _ in range(epochs):
            descend(relabelled, label_loss(edit.model), optimizer)
    return edit.receipt


def boundary_expand(
    model: nn.Module,
    forget: LabelledData,
    remain: LabelledData,  # noqa: ARG001 (all methods are called alike)
    *,
    epochs: int = 10,
    lr: float = 1e-5,
    seed: int = 0,
) -> Receipt:
    """Teach that samples to forget are of an additional class, which is dropped afterwards.

    SGD with momentum 0.9.

    Source: Chen, Gao, Liu, Peng, Wang, "Boundary Unlearning", CVPR 2023, boundary expanding.

    Args:
        model: The classifier, changed in place; its last linear layer has one output for each class.
        forget: Batches to forget.
        remain: Batches of the remaining data; not used.
        epochs: Passes over ``forget``.
        lr: The learning rate.
        seed: Of the additional class's weights, dropout and shuffling.

    Returns:
        The receipt.

    Raises:
        ValueError: There is no batch, or no such layer.
    """
    forget = RepeatableBatches(forget, "forget")
    with editing("boundary_expand", model, seed, epochs=epochs, lr=lr) as edit:
        inputs, _ = next(iter(forget))
        with evaluating(edit.model):
            classes = teacher_outputs(edit.model, inputs).shape[1]
        parent, name, narrow = output_layer(edit.model, classes)
        wide = _widened(narrow)
        setattr(parent, name, wide)
        try:
            optimizer = torch.optim.SGD(trained_parameters(edit.model), lr, momentum=0.9)
            relabelled = ((x, torch.full_like(y, classes)) for _ in range(epochs) for x, y in forget)
            descend(relabelled, label_loss(edit.model), optimizer)
        finally:
            setattr(parent, name, narrow)
        with torch.no_grad():
            for kept, grown in zip(narrow.parameters(), wide.parameters(), strict=True):
                kept.copy_(grown[:classes])
    return edit.receipt


def _nearest_classes(model: nn.Module, inputs: Inputs, y: Tensor, epsilon: float) -> Tensor:
    x = one_tensor(inputs, "forget").detach().requires_grad_()
    (slope,) = torch.autograd.grad(F.cross_entropy(outputs(model, x), y), [x])
    logits = teacher_outputs(model, x + epsilon * slope.sign())
    return logits.scatter(1, y[:, None], -torch.inf).argmax(1)


def _widened(layer: nn.Linear) -> nn.Linear:
    """Return a copy of the layer with one more output, in the same mode."""
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
