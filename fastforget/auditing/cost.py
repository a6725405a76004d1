"""What a method took: time and memory."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

__all__ = ["Cost", "measure_cost"]

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class Cost:
    """What a method took; set when the block of `measure_cost` ends.

    Attributes:
        seconds: Wall time.
        cpu_seconds: CPU time of all threads.
        peak_bytes: Memory at the peak beyond that before: allocated by PyTorch on a CUDA device, resident in the
            process on the CPU; None where the system does not say.
        phases: Wall time by phase, if the method tells, for instance ``receipt.seconds``.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_bytes: int | None = None
    phases: Mapping[str, float] = field(default_factory=dict)


@contextmanager
def measure_cost(device: torch.device | str = "cpu") -> Iterator[Cost]:
    """Measure what happens inside; keep evaluation out of it.

    Args:
        device: Where the model is: memory is measured there.

    Yields:
        The cost, for ``audit(..., cost=)``.

    Example:
        >>> with measure_cost() as cost:
        ...     _ = torch.randn(100, 100).svd()
        >>> cost.seconds > 0
        True
    """
    place, cost = torch.device(device), Cost()
    before = _start(place)
    wall, cpu = time.perf_counter(), time.process_time()
    yield cost
    if place.type == "cuda":
        torch.cuda.synchronize(place)
    cost.seconds, cost.cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
    peak = torch.cuda.max_memory_allocated(place) if place.type == "cuda" else _status("VmHWM")
    cost.peak_bytes = None if peak is None or before is None else max(0, peak - before)


def _start(device: torch.device) -> int | None:
    """Let the peak be that from now on; return the memory in use."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    try:
        _CLEAR.write_text("5")  # Linux: resets the peak of the resident size
    except OSError:
        return None
    return _status("VmRSS")


def _status(key: str) -> int | None:
    found = re.search(rf"^{key}:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    return 1024 * int(found[1]) if found else None
