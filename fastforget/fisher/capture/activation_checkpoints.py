"""Activation checkpoints do not recompute while a Fisher is taken.

A checkpoint (`torch.utils.checkpoint`, ``use_reentrant=False``) saves no activations in forward. In backward it runs
its part of the model again, and takes what that run saves, by position, for what the forward would have saved. Here the
forward runs with other parameters and with taps on them, so the second run would save other tensors. A checkpoint only
trades memory for time; the gradients are the same without it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import CheckpointFunction, set_checkpoint_early_stop

from fastforget.classifier.modes import lay_out_gradient

__all__ = ["KeepActivations", "keep_activations", "without_saved_tensor_hooks"]

_hooks: Any = torch._C._autograd  # noqa: SLF001 - nothing public takes hooks off


@contextmanager
def without_saved_tensor_hooks() -> Iterator[None]:
    """Let autograd save tensors as they are, whatever hooks the caller has installed."""
    installed = []
    while (pair := _hooks._top_saved_tensors_default_hooks(True)) is not None:  # noqa: SLF001
        _hooks._pop_saved_tensors_default_hooks()  # noqa: SLF001
        installed.append(pair)
    try:
        yield
    finally:
        for pair in reversed(installed):
            _hooks._push_saved_tensors_default_hooks(*pair)  # noqa: SLF001


@contextmanager
def keep_activations(mode: KeepActivations) -> Iterator[None]:
    """Run under a mode, and without early stopping.

    A checkpoint that the mode does not reach then finds that its second run saves more than the first, and raises.
    """
    with set_checkpoint_early_stop(False), mode:
        yield


def _refuse_reentrant(args: Sequence[Any]) -> None:
    """Raise ValueError where a parameter is used inside a reentrant checkpoint, which runs its part without a graph."""
    if not any(isinstance(value, Tensor) and value.requires_grad and value.is_leaf for value in args):
        return
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code is CheckpointFunction.forward.__code__:
            raise ValueError(
                "`model` must not use reentrant activation checkpoints, whose parameters get no gradient here: call "
                "torch.utils.checkpoint.checkpoint(..., use_reentrant=False), or turn checkpoints off"
            )
        frame = frame.f_back


class KeepActivations(TorchFunctionMode):
    """Runs every torch function without saved-tensor hooks.

    It does not reach a custom autograd function: `keep_activations` makes a checkpoint around one an error.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if not torch.is_grad_enabled():
            _refuse_reentrant(args)
        if _hooks._top_saved_tensors_default_hooks(True) is None:  # noqa: SLF001
            result = self.run_function(func, args, kwargs or {})
        else:
            with without_saved_tensor_hooks():
                result = self.run_function(func, args, kwargs or {})
        lay_out_gradient(func, result)
        return result

    def run_function(self, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Run one function."""
        return func(*args, **kwargs)
