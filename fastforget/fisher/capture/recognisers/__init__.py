"""The ways to use a parameter that have a fused Fisher kernel, a file per kind of function.

A recogniser is called in place of a torch function. It computes the function with detached parameters, so that autograd
follows the activations only. For each parameter it registers a `Use`, which turns the gradient of the output and some
saved operands into calls of the operators. For anything that it does not know exactly it returns NotImplemented: that
use goes through ordinary autograd, and the parameter falls back. A file ends with its table ``RECOGNISERS``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastforget.fisher.capture.recognisers import (
    broadcast,
    convolution,
    embedding,
    grouped,
    linear,
    norms,
    randomness,
    recurrent,
)

__all__ = ["RECOGNISERS"]

RECOGNISERS: dict[Any, Callable[..., Any]] = {
    function: recognise
    for module in (linear, grouped, convolution, norms, embedding, broadcast, recurrent, randomness)
    for function, recognise in module.RECOGNISERS.items()
}
