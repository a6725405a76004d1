"""The versions of this library and of PyTorch, as files hold them."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import torch

__all__ = ["LIBRARY_VERSION", "current_versions"]

try:
    LIBRARY_VERSION = version("fastforget")
except PackageNotFoundError:  # a source tree that was built but not installed
    LIBRARY_VERSION = "0+unknown"


def current_versions() -> dict[str, str]:
    """Return the versions by name: "fastforget" and "torch"."""
    return {"fastforget": LIBRARY_VERSION, "torch": str(torch.__version__)}
