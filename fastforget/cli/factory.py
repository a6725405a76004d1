"""The factory that `--model package.module:function` names: a function that makes the module."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any

from torch import nn

from fastforget.classifier.named_functions import import_named

__all__ = ["make"]


def make(factory: str) -> nn.Module:
    """Import a factory and call it.

    What it prints goes to standard error, because standard output belongs to the command.

    Args:
        factory: "package.module:function"; modules in the working directory are found.

    Returns:
        The module that it makes.

    Raises:
        ImportError: The module cannot be imported, or has no such name.
        RuntimeError: The function failed.
        TypeError: It is no function without arguments, or returned something else.
    """
    with redirect_stdout(sys.stderr):
        function = _import_function(factory)
        try:
            module = function()
        except Exception as error:
            raise RuntimeError(f"`--model` {factory} failed: {type(error).__name__}: {error}") from error
    if not isinstance(module, nn.Module):
        raise TypeError(f"`--model` must return a torch.nn.Module, got {type(module).__name__} from {factory}")
    return module


def _import_function(factory: str) -> Callable[[], Any]:
    function = import_named(factory, "--model")
    path = factory.partition(":")[2]
    if isinstance(function, nn.Module) or not callable(function):
        kind = type(function).__name__
        raise TypeError(f"`--model` must name a function that makes a module, got {path!r}, a {kind}")
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise TypeError(f"`--model` must name a function without arguments, got {path!r}: {error}") from error
    except ValueError:
        pass  # functions that are not written in Python may have no signature
    return function  # type: ignore[no-any-return]
