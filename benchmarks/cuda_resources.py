"""Print a Markdown table of registers, shared memory and spills per CUDA kernel, from the ptxas reports of `make cuda`.

python benchmarks/cuda_resources.py            # of build/cuda
python benchmarks/cuda_resources.py FOLDER
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ENTRY = re.compile(
    r"Compiling entry function '(?P<name>\S+)' for 'sm_(?P<architecture>\d+)'.*?"
    r"(?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers"
    r"(?P<rest>[^\n]*)",
    re.DOTALL,
)


def demangled(names: list[str]) -> dict[str, str]:
    """Return the names of kernels with their template arguments, without their parameters."""
    found = subprocess.run(["c++filt", *names], check=True, capture_output=True, text=True)  # noqa: S603, S607
    short = [
        re.sub(r"fastforget::cuda::|\(anonymous namespace\)::|^void ", "", line) for line in found.stdout.split("\n")
    ]
    return {name: line.split("(")[0].replace("> >", ">>") for name, line in zip(names, short, strict=False)}


def resources(folder: Path) -> Iterator[tuple[str, str, str, int, int, int]]:
    """Yield file, kernel, architecture, registers, bytes of static shared memory and bytes of spills."""
    for report in sorted(folder.rglob("*.ptxas")):
        entries = list(ENTRY.finditer(report.read_text()))
        names = demangled([entry["name"] for entry in entries])
        for entry in entries:
            shared = re.search(r"(\d+) bytes smem", entry["rest"])
            spills = int(entry["stores"]) + int(entry["loads"])
            yield (
                report.stem,
                names[entry["name"]],
                entry["architecture"],
                int(entry["registers"]),
                int(shared[1]) if shared else 0,
                spills,
            )


def main() -> None:
    """Print the table: a row per kernel, with the largest of its instances, architectures side by side."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "build" / "cuda"
    rows: dict[tuple[str, str], list[tuple[str, int, int, int]]] = {}
    for file, kernel, *found in resources(folder):
        # Instances of the products differ by their tiles, so they are listed one by one; layouts share a row.
        tile = re.sub(r"^(stream_kernel<.*), \w+, \w+>$", r"\1>", kernel)
        name = tile if file.startswith("fisher_matmul") else kernel.split("<")[0]
        rows.setdefault((file, name), []).append(tuple(found))
    if not rows:
        raise SystemExit(f"no reports of ptxas in {folder}: run `make cuda` first")
    architectures = sorted({instance[0] for row in rows.values() for instance in row})
    named = ", ".join(f"sm_{architecture}" for architecture in architectures)
    print(f"| file | kernel | registers {named} | static shared bytes | spilled bytes |")
    print("|---|---|---|---|---|")
    for (file, kernel), row in rows.items():
        most = ", ".join(str(max((r for a, r, _, _ in row if a == name), default="-")) for name in architectures)
        shared, spills = (max(instance[i] for instance in row) for i in (2, 3))
        print(f"| {file} | `{kernel}` | {most} | {shared} | {spills} |")


if __name__ == "__main__":
    main()
