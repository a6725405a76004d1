"""Print a Markdown table of how well the Fisher matrix kernel fills the multiprocessors of an H200. Needs no GPU.

python benchmarks/cuda_waves.py

The shares of samples are those of csrc/kernels/cuda/splits.h, which is compiled for that. The column before is what a
kernel takes that asks for two blocks per multiprocessor, rounded up, as ours did first.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from math import ceil
from pathlib import Path

ROOT = Path(__file__).parents[1]
MULTIPROCESSORS = 132
PROGRAM = """
#include <cstdio>
#include "csrc/kernels/cuda/splits.h"
using namespace fastforget::cuda;
int main() {
  long blocks, samples, slots, bytes;
  while (std::scanf("%ld %ld %ld %ld", &blocks, &samples, &slots, &bytes) == 4) {
    const Sharing work{blocks, samples, slots, bytes};
    const long splits = long(splits_for(work));
    std::printf("%ld %ld %ld\\n", splits, long(time_of(work, splits)), long(time_of(work, 1)));
  }
}
"""

# Name, features out and in, samples.
LAYERS = (
    ("ViT-B/16, attention in, b64", 2304, 768, 64),
    ("ViT-B/16, attention out, b64", 768, 768, 64),
    ("ViT-B/16, MLP, b64", 3072, 768, 64),
    ("ResNet-18, 512 x 512 x 3 x 3 (64 columns), b128", 512, 4608, 128),
    ("linear, 1000 x 768, b64", 1000, 768, 64),
    ("linear, 128 x 128, b128", 128, 128, 128),
)


def shared(works: Sequence[tuple[int, int, int, int]]) -> list[tuple[int, int, int]]:
    """Return shares, the time they take and that without sharing, for blocks, samples, slots and bytes each."""
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder) / "splits.cpp", Path(folder) / "splits"
        source.write_text(PROGRAM)
        command = [os.environ.get("CXX", "g++"), "-std=c++17", f"-I{ROOT}", "-o", str(program), str(source)]
        subprocess.run(command, check=True)  # noqa: S603 (the compiler of the kernels)
        lines = "".join(f"{' '.join(map(str, work))}\n" for work in works)
        done = subprocess.run([program], input=lines, check=True, capture_output=True, text=True)  # noqa: S603
    rows = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    return [(splits, time, alone) for splits, time, alone in rows]


def busy(blocks: int, samples: int, splits: int, slots: int = MULTIPROCESSORS) -> float:
    """Return the share of the slots that work on samples, on average until the last block ends."""
    return blocks * samples / slots / (ceil(blocks * splits / slots) * ceil(samples / splits))


def main() -> None:
    """Print the table."""
    print("| layer | tiles | shares before | busy | shares | busy |\n|---|---|---|---|---|---|")
    for name, rows, columns, samples in LAYERS:
        wide = 64 if "64 columns" in name else 128  # patches pass through registers, which leaves room for half a tile
        blocks = ceil(rows / 128) * ceil(columns / wide)
        ((splits, _, _),) = shared([(blocks, samples, MULTIPROCESSORS, 2 * rows * columns * 4)])
        before = min(ceil(2 * MULTIPROCESSORS / blocks), samples, max((64 << 20) // (2 * rows * columns * 4), 1))
        numbers = [f"{before} | {busy(blocks, samples, before):.0%}", f"{splits} | {busy(blocks, samples, splits):.0%}"]
        print(f"| {name} | {blocks} | {' | '.join(numbers)} |")


if __name__ == "__main__":
    sys.exit(main())
