"""Activation checkpoints do not recompute while a Fisher is taken.

A checkpoint (`torch.utils.checkpoint`, ``use_reentrant=False``) saves no activations in forward and runs its part of
the model again in backward, pairing what that saves with what the forward would have saved by position. Here the
forward runs with other parameters and with taps on them, so the second run would save other tensors. A checkpoint only
trades memory for time; the gradients are the same without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import set_checkpoint_early_stop

__all__ = ["KeepActivations", "keep_activations", "without_saved_tensor_hooks"]

_hooks: Any = torch._C._autograd  # noqa: SLF001 - nothing public takes hooks off


@contextmanager
def without_saved_tensor_hooks() -> Iterator[None]:
    """Let autograd save tensors as they are, whatever hooks are installed around."""
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

    So a checkpoint that the mode does not reach sees that its second run saves more than the first, and says so.
    """
    with set_checkpoint_early_stop(False), mode:
        yield


class KeepActivations(TorchFunctionMode):
    """Runs every torch function without saved-tensor hooks.

    A custom autograd function is out of its reach: `keep_activations` makes a checkpoint around one an error.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if _hooks._top_saved_tensors_default_hooks(True) is None:  # noqa: SLF001
            return self.call(func, args, kwargs or {})
        with without_saved_tensor_hooks():
            return self.call(func, args, kwargs or {})

    def call(self, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Run one function."""
        return func(*args, **kwargs)
