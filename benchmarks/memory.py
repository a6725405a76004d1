"""Measure the peak memory of one call, in a process of its own.

    python benchmarks/memory.py "resnet18-cifar b32" fastforget

The result is the peak resident size during the call, minus the resident size before it, in bytes. A call on a single
sample comes first, so that code pages and pools are not counted.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Large tensors come straight from the system and go straight back. A peak then shows what was alive, not what the
# allocator kept. glibc reads these variables when a process starts.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}


def peak(workload: str, candidate: str, *, batch: int = 0) -> int:
    """Return the peak bytes of a candidate of ``bench_fisher``, for a smaller batch if asked."""
    command = [sys.executable, __file__, workload, candidate, "--batch", str(batch)]
    environment = {**os.environ, **ALLOCATOR, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)  # noqa: S603
    return int(done.stdout)


def status(key: str) -> int:
    """Return an entry of this process's status, in bytes."""
    found = re.search(rf"^{key}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"/proc/self/status has no {key}: peak memory is measured on Linux only")
    return 1024 * int(found[1])


def measured(run: Callable[[], Any]) -> int:
    """Run once and return the peak above what was resident before."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = status("VmRSS")
    run()
    return status("VmHWM") - before


def main() -> None:
    from candidates import METHODS  # noqa: PLC0415 - callers of `peak` need no PyTorch
    from workloads import WORKLOADS  # noqa: PLC0415

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("candidate", choices=METHODS)
    parser.add_argument("--batch", type=int, default=0, help="samples, if not those of the workload")
    arguments = parser.parse_args()
    workload = WORKLOADS[arguments.workload]
    model, method = workload.model(), METHODS[arguments.candidate]
    samples = workload.samples(arguments.batch or workload.batch)
    method(model, *workload.samples(1))
    print(measured(lambda: method(model, *samples)))


if __name__ == "__main__":
    main()
