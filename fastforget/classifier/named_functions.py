"""Functions that a text names, as ``package.module:function``, for instance a factory of one's own."""

from __future__ import annotations

import importlib
import sys
from operator import attrgetter
from pathlib import Path
from typing import Any

__all__ = ["import_named"]


def import_named(text: str, argument: str, folder: Path | None = None) -> Any:
    """Import what a text names.

    Args:
        text: "package.module:function"; modules in the working directory are found.
        argument: What the text was given as, for errors.
        folder: Where modules are looked for first, beside the working directory.

    Returns:
        What has that name, for instance a function.

    Raises:
        ImportError: The module cannot be imported, or has no such name.
    """
    name, _, path = text.partition(":")
    for place in (Path.cwd(), folder):
        if place is not None and str(place) not in sys.path:
            sys.path.insert(0, str(place))
    try:
        module = importlib.import_module(name)
    except Exception as error:
        raise ImportError(f"`{argument}` must name a module that can be imported, got {name!r}: {error}") from error
    try:
        return attrgetter(path)(module)
    except AttributeError as error:
        raise ImportError(
            f"`{argument}` must name a function of module {name}, got {path!r}, which it lacks"
        ) from error
