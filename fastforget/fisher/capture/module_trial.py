"""Modules that hide where the samples go inside, tried as a whole.

A mixture of experts sorts the tokens of all samples, a custom autograd function hides its calls: what comes out is
`Unknown`. If all that went into the module is known, the module is tried with other samples, as functions are
(`fastforget.fisher.capture.trial`). What lies before and after it then stays with the kernels.

A trial replaces what goes into a module, not what inside comes from parameters: rows of a class token may be taken from
another sample, and nobody sees it. So no parameter that is used inside such a module is left to the kernels.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as modules
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils import _pytree as pytree

from fastforget.fisher.capture.call import Call, tensors_in
from fastforget.fisher.capture.layout import Layout, Rows, Unknown
from fastforget.fisher.capture.trial import layout_by_trial, same_bits
from fastforget.fisher.capture.watch import Watch

__all__ = ["trying_modules"]

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
_PLAIN = (type(None), bool, int, float, complex, str, torch.dtype, torch.device, Enum)


@contextmanager
def trying_modules(watch: Watch) -> Iterator[None]:
    """Try, in this thread, every module that takes known layouts and returns an unknown one."""
    thread, trying, tried = threading.get_ident(), False, set[Any]()
    running: list[tuple[nn.Module, int]] = []  # with the number of uses when it began

    def enter(module: nn.Module, _args: Any) -> None:
        if not trying and threading.get_ident() == thread:
            running.append((module, len(watch.used)))

    def leave(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> None:
        nonlocal trying
        if trying or threading.get_ident() != thread:
            return
        while running[-1][0] is not module:  # an error ended it, and the model went on
            running.pop()
        _, start = running.pop()
        trying = True
        try:
            # Neither the mode nor its taps may see the trials.
            with torch._C.DisableTorchFunction(), torch.no_grad():  # noqa: SLF001
                if _try_module(watch, module, args, kwargs, outputs, tried):
                    watch.distrust(watch.used[start:])
        finally:
            trying = False

    handles = (register_module_forward_pre_hook(enter), register_module_forward_hook(leave, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
            # PyTorch 2.13 forgets this one, and would warn at every compiled module from then on.
            modules._global_forward_hooks_with_kwargs.pop(handle.id, None)  # noqa: SLF001


def _try_module(
    watch: Watch, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any, tried: set[Any]
) -> bool:
    """Record the layouts of outputs that are unknown, as far as trials show them; return whether one did."""
    # Of modules that differ in their parameters alone, as the layers of a network do, only the first is tried with
    # noise; ``tried`` has their kinds.
    unknown = [t for t in tensors_in(outputs) if isinstance(watch.layout_state(t), Unknown)]
    given = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if not isinstance(leaf, _PLAIN)]
    if not unknown or not all(isinstance(leaf, Tensor) for leaf in given) or _has_hooks(module):
        return False
    arguments = [(value, watch.layout_state(value)) for value in tensors_in(args, kwargs)]
    if len(arguments) != len(given) or any(isinstance(state, (Rows, Unknown)) for _, state in arguments):
        return False

    def run(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = pytree.tree_map_only(Tensor, lambda t: t.detach().clone(), (args, kwargs))
        return module.forward(*args, **kwargs)

    try:
        again, before = tensors_in(run(*args, **kwargs)), tensors_in(outputs)
    except Exception:  # noqa: BLE001 - it does not run twice
        return False
    if len(again) != len(before) or not all(map(same_bits, before, again)):
        return False  # it remembers something
    shown, kind = False, (_kind(module), *((tuple(value.shape), value.dtype, state) for value, state in arguments))
    for output in unknown:
        first = [tensor for tensor in again if tensor.shape == output.shape]
        call = Call(type(module).__name__, run, args, kwargs, output, arguments, watch.layout_state, watch.samples)
        state = layout_by_trial(call, rounding=True, first=first, with_noise=kind not in tried)
        if isinstance(state, Layout):
            watch.record(output, state)
            shown = True
    if shown:
        tried.add(kind)
    return shown


def _kind(module: nn.Module) -> Any:
    """Return what modules have in common that differ in the values of their tensors alone."""

    def settings(part: nn.Module) -> tuple[Any, ...]:
        own = {name: value for name, value in vars(part).items() if name not in _OF_EVERY_MODULE}
        plain = {name: value if isinstance(value, _PLAIN) else id(value) for name, value in own.items()}
        tensors = [(name, p.shape) for name, p in (*part.named_parameters("", False), *part.named_buffers("", False))]
        return type(part), part.training, tuple(sorted(plain.items())), tuple(tensors)

    return tuple((path, settings(part)) for path, part in module.named_modules())


def _has_hooks(module: nn.Module) -> bool:
    """Whether a user's hook would see the trials."""
    return any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())  # noqa: SLF001
