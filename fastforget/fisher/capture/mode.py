"""The torch function mode under which a model runs while it is watched.

Each function that the model calls goes through `CaptureMode`. Where a function uses a watched parameter in a way that a
recogniser knows, it is computed with the detached parameter and its result is tapped: the gradient that arrives there
in backward goes to the fused kernels. So autograd only runs the chain of input gradients, and the Fisher kernels do
the work on the weights' gradients. Elsewhere the mode follows where the samples are
(`fastforget.fisher.capture.follow_layout`).

The parameters given to the model are leaves that require gradients. A use that is not recognised goes through ordinary
autograd and shows as a gradient on its leaf. That is how it is found, so nothing is silently skipped.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from fastforget.fisher.capture.activation_checkpoints import KeepActivations
from fastforget.fisher.capture.call import Call, tensors_in, writes
from fastforget.fisher.capture.follow_layout import follow, function_name, is_known, keeps_shape_and_layout
from fastforget.fisher.capture.layout import LayoutState
from fastforget.fisher.capture.recognisers import RECOGNISERS
from fastforget.fisher.capture.rewrites import REWRITES
from fastforget.fisher.capture.watch import Watch

__all__ = ["CaptureMode"]


# Their result is a tensor that was there before, or none: nothing is to be noted of it.
_PROPERTIES = "_base grad grad_fn device dtype is_cpu is_cuda is_leaf layout ndim requires_grad shape"
_READERS = {getattr(Tensor, name).__get__ for name in _PROPERTIES.split()} | {
    Tensor.dim,
    Tensor.size,
    Tensor.numel,
    Tensor.stride,
    Tensor.is_contiguous,
    Tensor.is_floating_point,
}


class CaptureMode(KeepActivations):
    """Follows samples and taps uses of parameters while a model runs forward."""

    def __init__(self, watch: Watch) -> None:
        """Note what happens in ``watch``."""
        super().__init__()
        self._watch = watch
        # Composite functions that are being looked into: one that hands itself on is then taken as a whole.
        self._inside: set[Callable[..., Any]] = set()

    def run_function(self, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Run one function; if it uses a parameter in a way that is known, with a tap on its result."""
        if func in _READERS:
            self._watch.layout_state(args[0])  # which notes whether it is a leaf of somebody else
            return func(*args, **kwargs)
        recognise = RECOGNISERS.get(func)
        if recognise is not None:
            result = recognise(self._watch, func, *args, **kwargs)
            if result is not NotImplemented:
                return result
        rewrite = REWRITES.get(func)
        if rewrite is not None and self._uses_parameters(args, kwargs):
            with self:
                result = rewrite(self._watch, func, *args, **kwargs)
            if result is not NotImplemented:
                return result
        if _is_composite(func) and func not in self._inside:
            return self._look_inside(func, args, kwargs)
        if not self._watch.follows:  # nobody asks where the samples are
            return func(*args, **kwargs)
        return self._run_followed(func, args, kwargs)

    def _uses_parameters(self, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
        return any(value.requires_grad and self._watch.parameter(value) for value in tensors_in(args, kwargs))

    def _look_inside(self, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Run a composite function, with an eye on the functions that it calls."""
        assert isinstance(func, FunctionType)  # noqa: S101 - for the type checker
        self._inside.add(func)
        try:
            with self:
                return _without_override(func)(*args, **kwargs)
        finally:
            self._inside.discard(func)

    def _run_followed(self, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Run a function, and note where the samples are in its results."""
        watch = self._watch
        # Before it runs: it may write to its arguments, whatever its name.
        arguments = [(value, watch.layout_state(value)) for value in tensors_in(args, kwargs)]
        if writes(func) and args and isinstance(args[0], Tensor):
            before = watch.before_write(args[0])
            same = not kwargs and keeps_shape_and_layout(func, args, args[0])
            after = before.state if same else self._states_after(func, args, kwargs, arguments, args[0])[0]
            result = func(*args, **kwargs)
            watch.record_write(args[0], before, after)
            if isinstance(result, Tensor) and result is not args[0]:
                watch.record(result, after)
            return result
        result = func(*args, **kwargs)
        if not kwargs and args and keeps_shape_and_layout(func, args, result):
            watch.record(result, arguments[0][1])
            return result
        outputs = [t for t in (result if isinstance(result, (tuple, list)) else (result,)) if isinstance(t, Tensor)]
        for output, state in zip(outputs, self._states_after(func, args, kwargs, arguments, *outputs), strict=True):
            watch.record(output, state)
        return result

    def _states_after(
        self,
        func: Callable[..., Any],
        args: Sequence[Any],
        kwargs: dict[str, Any],
        arguments: Sequence[tuple[Tensor, LayoutState]],
        *outputs: Tensor,
    ) -> list[LayoutState]:
        """Return what is known of the layouts of a function's results, from what was known of its arguments."""
        known = {id(value): state for value, state in arguments}
        by_shape: dict[torch.Size, LayoutState] = {}
        for output in outputs:
            if output.shape not in by_shape:
                name, samples = function_name(func), self._watch.samples
                call = Call(name, func, args, kwargs, output, arguments, lambda value: known.get(id(value)), samples)
                by_shape[output.shape] = follow(call)
        return [by_shape[output.shape] for output in outputs]


@functools.cache
def _is_composite(func: Callable[..., Any]) -> bool:
    """Whether to look inside a function, which calls others in Python, instead of at the whole."""
    return isinstance(func, FunctionType) and "handle_torch_function" in func.__globals__ and not is_known(func)


def _no_override(*_args: Any) -> bool:
    return False


@functools.cache
def _without_override(func: FunctionType) -> Callable[..., Any]:
    """Return the function without its own override check, so that the calls it makes are seen one by one."""
    checks = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")
    unchecked = FunctionType(
        func.__code__,
        {**func.__globals__, **dict.fromkeys(checks, _no_override)},
        func.__name__,
        func.__defaults__,
        func.__closure__,
    )
    unchecked.__kwdefaults__ = func.__kwdefaults__
    return unchecked
