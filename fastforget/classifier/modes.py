"""Modes of a model and of PyTorch that a run needs, and that are put back afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fastforget.classifier.devices import random_devices
from fastforget.classifier.kept_values import keep_nothing

__all__ = [
    "SingleSampleBackward",
    "check_eval",
    "enable_recurrent_backward",
    "evaluating",
    "fresh_casts",
    "lay_out_gradient",
    "normal_tensors",
    "recurrent_backward",
    "reproducible",
]

_BATCH_NORMS = (torch.nn.functional.batch_norm, torch.batch_norm)


def check_eval(model: nn.Module) -> None:
    """Raise ValueError if a module is in train mode."""
    for path, module in model.named_modules():
        if module.training:
            raise ValueError(
                f"`model` must be in eval mode, got module {path or type(module).__name__!r} in train mode; call "
                "model.eval() first"
            )


@contextmanager
def normal_tensors() -> Iterator[None]:
    """Make tensors that can be changed by anybody, also inside a caller's ``torch.inference_mode``."""
    gradients = torch.is_grad_enabled()
    with torch.inference_mode(mode=False), torch.set_grad_enabled(gradients):
        yield


def enable_recurrent_backward(model: nn.Module) -> list[tuple[nn.RNNBase, float]]:
    """Set recurrent layers in eval mode to train mode without dropout: their outputs stay the same to the bit.

    cuDNN has a backward for them in train mode only.

    Returns:
        Those layers, with their dropout before.
    """
    changed = [
        (layer, layer.dropout) for layer in model.modules() if isinstance(layer, nn.RNNBase) and not layer.training
    ]
    for layer, _ in changed:
        layer.training, layer.dropout = True, 0.0
    return changed


@contextmanager
def recurrent_backward(model: nn.Module) -> Iterator[None]:
    """Make backward work through recurrent layers in eval mode, on every device."""
    changed = enable_recurrent_backward(model)
    try:
        yield
    finally:
        for layer, dropout in changed:
            layer.training, layer.dropout = False, dropout


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put every module in eval mode, and back into its own mode afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    keeping = keep_nothing(model)
    try:
        with recurrent_backward(model):
            yield
    finally:
        keeping.remove()
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def fresh_casts() -> Iterator[None]:
    """Let weights move under ``torch.autocast``, which keeps its cast of each weight until its context ends.

    Inside, casts are made anew for every use. Afterwards the kept casts are dropped, in all threads.
    """
    kept = torch.is_autocast_cache_enabled()
    torch.clear_autocast_cache()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(kept)
        torch.clear_autocast_cache()


@contextmanager
def reproducible(model: nn.Module, seed: int) -> Iterator[None]:
    """Seed the random state of the CPU and of the model's devices, and turn gradients on; undo both afterwards.

    Weights may move inside.
    """
    devices = random_devices(*model.parameters())
    with torch.random.fork_rng(devices=devices), torch.enable_grad(), fresh_casts():
        torch.default_generator.manual_seed(seed)
        for device in devices:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def lay_out_gradient(func: Callable[..., Any], result: Any) -> None:
    """Have the gradient of a batch norm of a single sample laid out row by row before its backward reads it.

    With another layout, such as after ``batch_norm(x).flatten(2).transpose(1, 2)``, PyTorch 2.13's backward of a batch
    norm in eval mode is wrong on the CPU for one sample: it reads the elements in the order of the memory.
    """
    if func in _BATCH_NORMS and isinstance(result, Tensor) and result.shape[0] == 1 and result.requires_grad:
        result.register_hook(Tensor.contiguous)


class SingleSampleBackward(TorchFunctionMode):
    """Makes the backward right of models with batch norms that run on one sample, see `lay_out_gradient`."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        lay_out_gradient(func, result)
        return result
