"""Packages that only some engines need."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["require"]


def require(package: str, extra: str) -> Any:
    """Import a package.

    Args:
        package: Its name.
        extra: The extra of this library that brings it.

    Returns:
        The module.

    Raises:
        ImportError: It is not installed; says how to install it.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(f"`{package}` must be installed: pip install 'fastforget[{extra}]'") from error
