"""Running a model: on inputs of any structure, in micro-batches, without leaving a trace."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fastforget.classifier.devices import random_devices
from fastforget.classifier.inputs import Inputs, split_samples, tensors_of
from fastforget.classifier.kept_values import without_kept_values
from fastforget.classifier.modes import SingleSampleBackward

__all__ = ["call_with", "forward", "gather_logits", "logits_of", "run_isolated"]


def forward(model: Callable[..., Any], inputs: Inputs) -> Any:
    """Call ``model(inputs)``, ``model(*inputs)`` or ``model(**inputs)``; also of one sample, the backward is right."""
    first = next(iter(tensors_of(inputs)), None)
    if torch.is_grad_enabled() and first is not None and first.shape[:1] == (1,):
        with SingleSampleBackward():
            return _call(model, inputs)
    return _call(model, inputs)


def _call(model: Callable[..., Any], inputs: Inputs) -> Any:
    if isinstance(inputs, Tensor):
        return model(inputs)
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs)


def logits_of(outputs: Any) -> Tensor:
    """Return the logits among what a model returned, [N, C] for a classifier.

    Raises:
        TypeError: There are none.
    """
    logits = outputs if isinstance(outputs, Tensor) else getattr(outputs, "logits", None)
    if not isinstance(logits, Tensor):
        raise TypeError(f"`model` must return logits or an object with `.logits`, got {type(outputs).__name__}")
    return logits


def gather_logits(logits: Callable[[Inputs], Tensor], inputs: Inputs, batch_size: int | None) -> Tensor:
    """Return the logits of all samples, from runs of at most ``batch_size`` of them, in order.

    Args:
        logits: Runs some samples and returns their logits.
        inputs: All samples, leaves [N, ...].
        batch_size: None for all at once.

    Returns:
        The logits, [N, C].
    """
    samples = len(tensors_of(inputs)[0])
    if batch_size is None or batch_size >= samples:
        return logits(inputs)
    return torch.cat([logits(some) for some, _ in split_samples(inputs, None, samples, batch_size)])


def run_isolated(model: nn.Module, inputs: Inputs, parameters: Mapping[str, Tensor] | None = None) -> Any:
    """Run the model without gradients, and leave its buffers and the random state as they were.

    Args:
        model: The eager module.
        inputs: What its forward takes.
        parameters: Values to use in place of parameters of these names; of tied ones, every name.

    Returns:
        What the model returns.
    """
    named = dict(model.named_buffers(remove_duplicate=False))
    copies = {id(buffer): buffer.clone() for buffer in named.values()}
    values = {**(parameters or {}), **{name: copies[id(buffer)] for name, buffer in named.items()}}
    with torch.no_grad(), torch.random.fork_rng(devices=_random_devices(model)):
        return call_with(model, values, inputs)


def call_with(model: nn.Module, values: Mapping[str, Tensor], inputs: Inputs) -> Any:
    """Run the model with other parameters and buffers; nothing that it keeps of its own ones is used, or changes.

    Args:
        model: The eager module.
        values: What to use in place of parameters and buffers of these names; of tied ones, every name.
        inputs: What its forward takes.

    Returns:
        What the model returns.
    """
    # A module that has two names is given its values once: PyTorch would put back the first of two in place of its own.
    once = {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        for name, _ in (*module.named_parameters("", False, False), *module.named_buffers("", False, False))
    }
    chosen = {name: value for name, value in values.items() if name in once}
    # Every name of tied parameters is there. To look for ties takes longer than a small layer.
    with without_kept_values(model):
        return forward(lambda *a, **k: functional_call(model, chosen, a, k, tie_weights=False), inputs)


def _random_devices(model: nn.Module) -> list[torch.device]:
    # Asked for at every trial of a step, and most models are not on a CUDA device.
    return random_devices(*model.parameters()) if torch.cuda.is_initialized() else []
