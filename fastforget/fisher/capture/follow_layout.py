"""Follows the samples from the arguments of a function to its results, by the function's rule.

Where there is none, or it does not tell, the function is tried with other samples. One that mixes samples gives
`Unknown`, never a guess.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastforget.fisher.capture.call import Call, LayoutRule
from fastforget.fisher.capture.follow_rows import follow_rows
from fastforget.fisher.capture.layout import LayoutState, Rows, Unknown
from fastforget.fisher.capture.layout_rules import RULES
from fastforget.fisher.capture.layout_rules.elementwise import after_broadcast
from fastforget.fisher.capture.layout_rules.layers import after_batched
from fastforget.fisher.capture.trial import layout_by_trial

__all__ = ["follow", "function_name", "is_known", "keeps_shape_and_layout"]

# Their results take a type or shape from a tensor, but no values.
_MAKERS = "new_zeros new_ones new_full new_empty new_tensor"
# Sizes and places in their arguments say how much is taken, and no value of the result.
_SIZED = {"new_zeros", "new_ones", "new_empty", "narrow", "view", "reshape", "unflatten", "expand"}


def follow(call: Call) -> LayoutState:
    """Return what is known of the layout of a call's result."""
    tensors = [(value, None if _is_size(call, value) else state) for value, state in call.tensors]
    states = [state for _, state in tensors if state is not None]
    unknown = next((state for state in states if isinstance(state, Unknown)), None)
    if not states or (call.function in _VALUE_FREE and unknown is None):
        return None
    call, rule = call._replace(tensors=tensors), _RULES.get(call.function)
    if unknown is None and not any(isinstance(state, Rows) for state in states):
        layout = rule(call) if rule else None
        if layout is not None and call.result.shape[layout.dim] % (call.samples * layout.inner) == 0:
            return layout
        found = layout_by_trial(call)
        if not isinstance(found, Unknown):
            return found
        unknown = found
    return follow_rows(call, rule) or unknown or Unknown(f"`{call.name}` is not known to keep rows of samples apart")


def _is_size(call: Call, value: Tensor) -> bool:
    return call.name in _SIZED and value.dim() == 0 and not value.is_floating_point() and value is not call.args[0]


def function_name(function: Callable[..., Any]) -> str:
    """Return the name under which the rules know a function, else its own."""
    name = _NAMES.get(function)
    return str(getattr(function, "__name__", function)) if name is None else name


def is_known(function: Callable[..., Any]) -> bool:
    """Whether it is known where the samples are in a function's result."""
    return function in _NAMES


def keeps_shape_and_layout(function: Callable[..., Any], args: Sequence[Any], result: Any) -> bool:
    """Whether a function worked element by element on its first argument alone; most calls of a network do."""
    return (
        function in _ELEMENTWISE
        and isinstance(result, Tensor)
        and isinstance(args[0], Tensor)
        and result.shape == args[0].shape
        and not any(isinstance(value, Tensor) for value in args[1:])
    )


def _functions(name: str) -> Iterable[Callable[..., Any]]:
    """Every object under which torch offers a function, its in-place form and its property getter."""
    for owner in (torch, torch.Tensor, F, torch._C._nn):  # noqa: SLF001 - where F's functions come from
        for spelling in {name, f"{name}_" if not name.startswith("__") else name}:
            member = getattr(owner, spelling, None)
            if callable(member):
                yield member
            elif member is not None and hasattr(member, "__get__"):
                yield member.__get__


_VALUE_FREE = {function for name in _MAKERS.split() for function in _functions(name)}
_RULES: dict[Callable[..., Any], LayoutRule] = {
    function: rule for rule, names in RULES.items() for name in names.split() for function in _functions(name)
}
_NAMES: dict[Callable[..., Any], str] = {
    function: name for names in (_MAKERS, *RULES.values()) for name in names.split() for function in _functions(name)
}
_RULES[F.unfold], _NAMES[F.unfold] = after_batched, "unfold"  # not Tensor.unfold, which is another function
_ELEMENTWISE = {function for function, rule in _RULES.items() if rule is after_broadcast}
