"""Training steps that several methods share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastforget.classifier.data_forms import Batches
from fastforget.classifier.inputs import Inputs
from fastforget.classifier.losses import check_depends
from fastforget.classifier.running import forward, logits_of

__all__ = [
    "Loss",
    "Optimizer",
    "descend",
    "divergence",
    "label_loss",
    "outputs",
    "step_down",
    "teacher_outputs",
    "trained_parameters",
    "wrong_labels",
]

Loss: TypeAlias = Callable[[Inputs, Tensor], Tensor]  # of inputs and targets, a scalar


class Optimizer(Protocol):
    """What takes steps: an optimiser of torch.optim, or a `MaskedStep`."""

    def zero_grad(self) -> None:
        """Drop all gradients."""

    def step(self) -> object:
        """Take a step."""


def outputs(model: nn.Module, inputs: Inputs) -> Tensor:
    """Return the logits [N, C]."""
    return logits_of(forward(model, inputs))


@torch.no_grad()
def teacher_outputs(teacher: nn.Module, inputs: Inputs) -> Tensor:
    """Return the logits [N, C], without gradients."""
    return outputs(teacher, inputs)


def trained_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that need a gradient.

    Raises:
        ValueError: There is none.
    """
    moving = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not moving:
        raise ValueError("`model` must have parameters that need a gradient, got none: unfreeze those that may move")
    return moving


def label_loss(model: nn.Module) -> Loss:
    """Return the cross-entropy with the targets, CE, as a function of a batch."""
    return lambda inputs, targets: F.cross_entropy(outputs(model, inputs), targets)


def divergence(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the mean KL(teacher || student) of the softmax of logits [N, C] / T, times T squared.

    Args:
        student: Logits.
        teacher: Logits of the same shape.
        temperature: T.

    Returns:
        A scalar.
    """
    pair = student.div(temperature).log_softmax(1), teacher.div(temperature).log_softmax(1)
    return F.kl_div(*pair, reduction="batchmean", log_target=True) * temperature**2


def wrong_labels(targets: Tensor, classes: int) -> Tensor:
    """Return classes drawn at random, none of them the right one."""
    return (targets + torch.randint(1, classes, targets.shape, device=targets.device)) % classes


def descend(batches: Batches, loss: Loss, optimizer: Optimizer) -> None:
    """Go through batches once, with a step down the loss for each.

    Args:
        batches: (inputs, targets).
        loss: Of a batch.
        optimizer: Takes the steps.
    """
    for inputs, targets in batches:
        step_down(loss(inputs, targets), optimizer)


def step_down(loss: Tensor, optimizer: Optimizer) -> None:
    """Take a step down a loss.

    Args:
        loss: A scalar.
        optimizer: Takes the step.

    Raises:
        ValueError: The loss is not finite, or depends on no parameter that needs a gradient.
    """
    if not math.isfinite(loss.item()):
        raise ValueError(f"the loss must stay finite, got {loss.item()}: use a smaller `lr`")
    check_depends(depends=loss.requires_grad)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
