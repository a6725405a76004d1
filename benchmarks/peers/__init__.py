"""Other ways to the diagonal Fisher, one per file.

Each module has ``prepare(model, loss)``. It returns a function of (inputs, targets) whose result is the mean over the
samples of the squared gradients, by parameter name; a parameter that the peer does not know is left out. What can be
done once per model belongs into ``prepare`` and is not timed. ``loss(outputs, targets)`` returns one loss per sample.
A library that attaches things to modules gets a copy of the model. Each library is given its most permissive
documented setting, so that it comes as far as it can.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

from torch import Tensor, nn

Fisher = dict[str, Tensor]
Loss = Callable[[Any, Any], Tensor]
Method = Callable[[Any, Tensor], Fisher]

MODULES = {
    "batch-1 loop": "batch_one",
    "vmap(grad)": "vmap",
    "hooks + bmm": "hooks",
    "BackPACK": "backpack",
    "nngeometry": "nngeometry",
    "Opacus": "opacus",
    "ASDL": "asdl",
}


def load(name: str) -> ModuleType:
    """Import a peer; ImportError where its library is not installed. Its warnings are its own."""
    with warnings.catch_warnings(action="ignore"):
        return import_module(f"peers.{MODULES[name]}")


def prepare(name: str, model: nn.Module, loss: Loss) -> Method:
    """Return a peer's method for a model; ImportError where its library is not installed."""
    with warnings.catch_warnings(action="ignore"):
        method: Method = load(name).prepare(model, loss)

    def quiet(inputs: Any, targets: Tensor) -> Fisher:
        with warnings.catch_warnings(action="ignore"):
            return method(inputs, targets)

    return quiet
