"""Count the instructions of the CPU kernels with callgrind, and compare them with those that are kept.

Times on shared machines jump; the number of instructions does not. It says nothing about caches, so it finds a kernel
that does more work, not one that waits more. valgrind has no AVX-512, so AVX2 is counted.

    python benchmarks/instructions/count.py            # fails if a kernel takes over 2 % more than was kept
    python benchmarks/instructions/count.py --keep     # writes benchmarks/results/instructions.json
    python benchmarks/instructions/count.py --against v0.1.0    # compares with what that release kept

Another compiler makes other instructions: then both numbers are shown, and nothing fails.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "benchmarks" / "results" / "instructions.json"
FLAGS = json.loads((ROOT / "csrc" / "flags.json").read_text(encoding="utf-8"))  # those of setup.py
LEVEL, TOLERANCE = "avx2", 1.02
LABEL = re.compile(r"^desc: Trigger: Client Request: (.+) \| (\d+)$", re.MULTILINE)
TOTALS = re.compile(r"^totals: (\d+)$", re.MULTILINE)


@dataclass(frozen=True)
class Case:
    """What one kernel took.

    Attributes:
        name: What it worked on.
        work: Its multiply-adds, or the elements it read.
        instructions: How many it took.
    """

    name: str
    work: int
    instructions: int


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--keep", action="store_true", help="keep what is counted, to compare with from now on")
    arguments.add_argument("--against", metavar="COMMIT", help="compare with what a commit or a tag kept")
    given = arguments.parse_args()
    for tool in ("valgrind", "g++"):
        if shutil.which(tool) is None:
            sys.exit(f"`{tool}` must be on the path (Debian: apt-get install valgrind g++)")
    with tempfile.TemporaryDirectory() as folder:
        cases = cases_of(built(Path(folder)), Path(folder))
    compiler = compiler_version()
    if given.keep:
        figures = {case.name: {"work": case.work, "instructions": case.instructions} for case in cases}
        KEPT.write_text(json.dumps({"compiler": compiler, "level": LEVEL, "kernels": figures}, indent=1) + "\n")
    kept = json.loads(KEPT.read_text() if given.against is None else kept_at(given.against))
    print(table(cases, kept["kernels"]))
    if kept["compiler"] != compiler:
        print(f"\nkept with {kept['compiler']}, counted with {compiler}: not compared")
        return
    if found := faults(cases, kept["kernels"]):
        sys.exit("\n".join(found))


def kept_at(commit: str) -> str:
    """Return what was kept at a commit."""
    command = ["git", "-C", str(ROOT), "show", f"{commit}:{KEPT.relative_to(ROOT).as_posix()}"]
    found = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603
    if found.returncode:
        sys.exit(f"`--against` must be a commit that kept instruction counts: {found.stderr.strip()}")
    return found.stdout


def built(folder: Path) -> Path:
    """Compile the kernels and what calls them."""
    program = folder / "kernels"
    sources = [ROOT / "benchmarks/instructions/kernels.cpp", *sorted((ROOT / "csrc/kernels/cpu").glob("*.cpp"))]
    flags = [*FLAGS["compile"], *FLAGS["harden"], *FLAGS.get(f"harden_{platform.machine()}", []), *FLAGS["link"]]
    command = ["g++", *flags, "-w", "-o", str(program), *map(str, sources)]  # warnings are the business of setup.py
    subprocess.run(command, check=True)  # noqa: S603
    return program


def cases_of(program: Path, folder: Path) -> list[Case]:
    """Run it under callgrind, and read a dump for each case."""
    out = folder / "callgrind"
    command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", str(program)]
    run = subprocess.run(  # noqa: S603
        command, check=False, capture_output=True, text=True, env={**os.environ, "FASTFORGET_SIMD": LEVEL}
    )
    if run.returncode:
        sys.exit(run.stderr)
    if run.stdout.strip() != LEVEL:
        sys.exit(f"this processor, or valgrind, must have {LEVEL}, got {run.stdout.strip()}")
    dumps = sorted(folder.glob("callgrind.*"), key=lambda path: int(path.suffix[1:]))
    return [case for dump in dumps if (case := read(dump.read_text())) is not None]


def read(dump: str) -> Case | None:
    """Return the case of a dump; None of what callgrind writes at the end."""
    label, totals = LABEL.search(dump), TOTALS.search(dump)
    return Case(label[1], int(label[2]), int(totals[1])) if label and totals else None


def faults(cases: list[Case], kept: dict[str, Any]) -> list[str]:
    """Say which kernels take more than was kept, or have nothing to be compared with."""
    counted = {case.name for case in cases}
    slower = [case.name for case in cases if case.name in kept and growth(case, kept) > TOLERANCE]
    return [
        *(f"{name} takes over {TOLERANCE:g} times what was kept" for name in slower),
        *(f"{name} was not kept" for name in counted - kept.keys()),
        *(f"{name} was not counted" for name in kept.keys() - counted),
    ]


def growth(case: Case, kept: dict[str, Any]) -> float:
    """Return the instructions as a multiple of those that were kept."""
    return case.instructions / float(kept[case.name]["instructions"])


def table(cases: list[Case], kept: dict[str, Any]) -> str:
    """Return what was counted, as Markdown; per unit of work, and beside what was kept."""
    lines = ["| kernel | instructions | per multiply-add, or element | ÷ kept |", "|---|--:|--:|--:|"]
    for case in cases:
        ratio = f"{growth(case, kept):.3f}" if case.name in kept else "new"
        lines.append(f"| {case.name} | {case.instructions:,} | {case.instructions / case.work:.3f} | {ratio} |")
    return "\n".join(lines)


def compiler_version() -> str:
    said = subprocess.run(["g++", "--version"], check=True, capture_output=True, text=True)  # noqa: S607
    return said.stdout.splitlines()[0]


if __name__ == "__main__":
    main()
