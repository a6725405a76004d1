"""The compiled libraries: finds and loads ``_C`` and ``_C_cuda``, which register ``torch.ops.fastforget``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def _why_missing(package: Path) -> str:
    """Say why the package in this folder has no operators: a source tree without a build may hide the installed one."""
    tree = package.parent
    built = [path for suffix in EXTENSION_SUFFIXES for path in package.rglob(f"_C{suffix}")]
    if (tree / "setup.py").is_file() and (tree / "csrc").is_dir() and not built:
        return (
            f"`fastforget` was imported from the source tree at {tree}, which has no compiled operators and hides the "
            "installed package: run Python from another folder (or set PYTHONSAFEPATH=1), or build the tree with "
            "`pip install --no-build-isolation -e .`"
        )
    return (
        "fastforget's compiled operators are missing; build them with "
        "`pip install --no-build-isolation -e .` in the source tree, or install a wheel"
    )


try:
    from fastforget.ops import _C
except ImportError as _error:  # a missing kernel is never papered over
    raise ImportError(_why_missing(Path(__file__).parents[1])) from _error

__all__ = ["check_not_empty", "cuda_built", "operators", "register_fake", "simd_level"]

operators: Any = torch.ops.fastforget
_cuda_libraries: list[str] = []  # paths of those that are loaded


def cuda_built() -> bool:
    """Return whether the operators run on CUDA devices.

    They do if fastforget was built with ``FASTFORGET_CUDA=1``, and PyTorch saw a device when it was imported.
    """
    return bool(_cuda_libraries)


def simd_level() -> str:
    """Return the instruction set in use: ``"avx512"``, ``"avx2"`` or ``"generic"``.

    It is the best that the processor has, or less if the environment variable ``FASTFORGET_SIMD`` says so. That is read
    once, when the first kernel runs.
    """
    return str(_C.simd_level())


def register_fake(name: str, fake: Callable[..., Any]) -> None:
    """Tell `torch.compile` and meta tensors which shapes and dtypes an operator returns.

    Args:
        name: The operator.
        fake: Takes what the operator takes, in the order of its schema; returns tensors without values.
    """
    torch.library.register_fake(f"fastforget::{name}", fake)


def check_not_empty(name: str, tensors: Sequence[Tensor]) -> None:
    """Raise ValueError for an empty list: without a tensor the dispatcher does not find the operator that checks it."""
    if not tensors:
        raise ValueError(f"`{name}` must not be empty")


def _load_cuda() -> None:
    """Load ``fastforget.ops._C_cuda`` if it was built and there is a device, which creates no context on it.

    Loading registers the kernels and does nothing else. PyTorch is asked for devices only if the library was built, and
    only by `torch.cuda.device_count`, which asks the driver's management library. `torch.cuda.is_available` would start
    CUDA, and then a program that imports this package could not fork workers that use CUDA.

    Raises:
        ImportError: The library is there but does not fit this PyTorch.
    """
    path = _cuda_path()
    if path is None or _cuda_libraries or not torch.cuda.device_count():
        return
    try:
        torch.ops.load_library(path)
    except OSError as error:  # a kernel that was built is never papered over
        raise ImportError(
            f"fastforget's CUDA kernels, {path}, do not fit PyTorch {torch.__version__}; build them again with "
            "FASTFORGET_CUDA=1 `pip install --no-build-isolation -e .` in the source tree"
        ) from error
    _cuda_libraries.append(path)


def _cuda_path() -> str | None:
    """The path of the library, which is not imported: it is no Python module."""
    spec = find_spec("fastforget.ops._C_cuda")
    return None if spec is None else spec.origin


_load_cuda()
