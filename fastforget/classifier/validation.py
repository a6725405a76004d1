"""Validation samples with an accuracy that an edit must keep: the argument ``floor``."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fastforget.classifier.arguments import FRACTION, check_number
from fastforget.classifier.inputs import Inputs, count_samples, plain
from fastforget.classifier.targets import as_classes, kind_of

__all__ = ["ValidationFloor", "check_floor"]

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


@dataclass(frozen=True, eq=False)
class ValidationFloor:
    """Some validation samples and the least accuracy on them.

    Attributes:
        inputs: What the model takes, leaves [N, ...].
        targets: Their classes, integers [N].
        accuracy: In [0, 1].
    """

    inputs: Inputs
    targets: Tensor
    accuracy: float


def check_floor(floor: object, device: torch.device) -> ValidationFloor:
    """Check the argument ``floor`` and move its samples to the model's device.

    Args:
        floor: (inputs, targets, accuracy).
        device: The device.

    Returns:
        The samples there.

    Raises:
        TypeError: It is something else, or its parts are.
        ValueError: The accuracy is not in [0, 1], or the samples do not fit each other.
    """
    if not isinstance(floor, (tuple, list)) or len(floor) != 3:
        raise TypeError(f"`floor` must be (inputs, targets, accuracy), got {type(floor).__name__}")
    inputs, targets, accuracy = floor
    targets = as_classes(targets)
    if not isinstance(targets, Tensor) or targets.dim() != 1 or targets.dtype not in _INTEGERS:
        raise TypeError(f"the targets of `floor` must be an integer tensor [N], got {kind_of(targets)}")
    check_number("the accuracy of `floor`", accuracy, FRACTION)
    inputs = plain(inputs)
    count_samples(inputs, targets)
    inputs, targets = pytree.tree_map_only(Tensor, lambda tensor: tensor.to(device), (inputs, targets))
    return ValidationFloor(inputs, targets, float(accuracy))
