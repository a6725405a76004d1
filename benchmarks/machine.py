"""Facts about the machine that every recorded number carries."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import fastforget
from fastforget import ops

LIBRARIES = ("numpy", "backpack-for-pytorch", "nngeometry", "opacus", "asdfghjkl", "torchjd")


def facts() -> dict[str, Any]:
    """Return processor, SIMD level, versions, and the settings of OpenMP and of the allocator."""
    return {
        "cpu": processor(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "simd": ops.simd_level(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "fastforget": fastforget.__version__,
        "libraries": {name: version for name in LIBRARIES if (version := installed(name))},
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", "unset"),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS", "unset"),
        "malloc": {name: value for name, value in sorted(os.environ.items()) if name.startswith("MALLOC_")},
    }


def commit() -> str:
    """Return the commit of the sources, and whether they differ from it."""
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent, check=False)  # noqa: S603
    return done.stdout.strip()


def processor() -> str:
    """Return the processor's model as the system names it."""
    file = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", file.read_text(), re.MULTILINE) if file.exists() else None
    return found[1] if found else platform.processor() or platform.machine()


def installed(name: str) -> str | None:
    """Return the version of a package, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
