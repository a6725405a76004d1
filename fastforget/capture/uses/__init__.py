"""The ways a parameter can be used that have a fused Fisher kernel, a file per kind of function.

A recogniser per torch function computes the function with detached parameters, so that autograd only
follows the activations, and registers a `Use` for each parameter: how to turn (gradient of the output,
saved operands) into calls of the operators. It returns NotImplemented for anything it does not know
exactly; that use then goes through ordinary autograd and the parameter falls back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastforget.capture.uses import broadcast, convolution, embedding, linear, norms, randomness
from fastforget.capture.uses.use import Lookup, Sums, Use, autocasts, sum_dtype

__all__ = ["RECOGNISERS", "Lookup", "Sums", "Use", "autocasts", "sum_dtype"]

RECOGNISERS: dict[Any, Callable[..., Any]] = {
    function: recognise
    for module in (linear, convolution, norms, embedding, broadcast, randomness)
    for function, recognise in module.RECOGNISERS.items()
}
