"""Run a model on inputs that it may not take, and tell that fault from others."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastforget.classifier.inputs import Inputs, tensors_of
from fastforget.classifier.running import logits_of, run_isolated

__all__ = ["DEVICE_ERRORS", "SHAPE_ERRORS", "checked_logits"]

# What modules raise for inputs that they do not take.
SHAPE_ERRORS = (RuntimeError, ValueError, IndexError, TypeError)
# These are RuntimeErrors too, but say nothing about the inputs: catch them first.
DEVICE_ERRORS = (torch.OutOfMemoryError, torch.AcceleratorError)


def checked_logits(model: nn.Module, inputs: Inputs, name: str) -> Tensor:
    """Return the model's logits, or say that the inputs are not what it takes.

    Args:
        model: The eager module.
        inputs: What its forward may take.
        name: What the error calls the inputs.

    Returns:
        The logits, [N, C].

    Raises:
        ValueError: The inputs do not fit.
        DEVICE_ERRORS: The device has no room for them now, or is in trouble.
    """
    try:
        outputs = run_isolated(model, inputs)
    except DEVICE_ERRORS:
        raise
    except SHAPE_ERRORS as error:
        shapes = [tuple(tensor.shape[1:]) for tensor in tensors_of(inputs)]
        raise ValueError(
            f"`{name}` must be what the model's forward takes, got samples of shape "
            f"{', '.join(map(str, shapes))}: {error}"
        ) from error
    return logits_of(outputs)
