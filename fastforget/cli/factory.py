"""The module that `--model package.module:function` makes."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from operator import attrgetter
from pathlib import Path
from typing import Any

from torch import nn

__all__ = ["make"]


def make(spec: str) -> nn.Module:
    """Import a function and call it.

    What it prints goes to standard error: standard output is the command's.

    Args:
        spec: "package.module:function"; modules in the working directory are found.

    Returns:
        The module that it returned.

    Raises:
        ImportError: The module cannot be imported, or has no such name.
        RuntimeError: The function failed.
        TypeError: It is no function without arguments, or returned something else.
    """
    with redirect_stdout(sys.stderr):
        function = _find(spec)
        try:
            made = function()
        except Exception as error:
            raise RuntimeError(f"`--model` {spec} failed: {type(error).__name__}: {error}") from error
    if not isinstance(made, nn.Module):
        raise TypeError(f"`--model` must return a torch.nn.Module, got {type(made).__name__} from {spec}")
    return made


def _find(spec: str) -> Callable[[], Any]:
    name, _, path = spec.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(name)
    except Exception as error:
        raise ImportError(f"`--model` must name a module that can be imported, got {name!r}: {error}") from error
    try:
        found = attrgetter(path)(module)
    except AttributeError as error:
        raise ImportError(f"`--model` must name a function of module {name}, got {path!r}, which it lacks") from error
    if isinstance(found, nn.Module) or not callable(found):
        raise TypeError(f"`--model` must name a function that makes a module, got {path!r}, a {type(found).__name__}")
    try:
        inspect.signature(found).bind()
    except TypeError as error:
        raise TypeError(f"`--model` must name a function without arguments, got {path!r}: {error}") from error
    except ValueError:
        pass  # functions that are not Python's may have no signature
    return found  # type: ignore[no-any-return]
