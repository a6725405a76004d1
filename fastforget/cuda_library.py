"""The library with the CUDA kernels: where it is, and whether it is loaded."""

from __future__ import annotations

from importlib.util import find_spec

import torch

__all__ = ["load", "loaded"]

_loaded: list[str] = []


def loaded() -> bool:
    """Return whether this process has CUDA kernels."""
    return bool(_loaded)


def load() -> None:
    """Load ``fastforget._C_cuda`` if it was built and there is a device, which creates no context on it.

    Loading registers the kernels and does nothing else. Only where the library was built is PyTorch asked for devices,
    and by `torch.cuda.device_count`, which asks the driver's management library: `torch.cuda.is_available` would start
    CUDA, after which a program that imports this package could not fork workers that use it.

    Raises:
        ImportError: It is there and does not fit this PyTorch.
    """
    path = _path()
    if path is None or loaded() or not torch.cuda.device_count():
        return
    try:
        torch.ops.load_library(path)
    except OSError as error:  # a kernel that was built is never papered over
        raise ImportError(
            f"fastforget's CUDA kernels, {path}, do not fit PyTorch {torch.__version__}; build them again with "
            "FASTFORGET_CUDA=1 `pip install --no-build-isolation -e .` in the source tree"
        ) from error
    _loaded.append(path)


def _path() -> str | None:
    """The file, found without importing it: it is no Python module."""
    spec = find_spec("fastforget._C_cuda")
    return None if spec is None else spec.origin
