"""Print a Markdown table of the instructions that each CUDA kernel takes in the loop where it works, from `make cuda`.

python benchmarks/cuda_instructions.py                            # kernels of build/cuda with tensor cores, sm_90
python benchmarks/cuda_instructions.py fisher_affine --folder X   # all kernels of a file in another folder
python benchmarks/cuda_instructions.py --objects build/other/fisher_matmul.o

The steady loop is the innermost loop with most matrix products (HMMA), or with most loads where a kernel has none. What
is counted is its shortest way round that meets all products and all copies from global memory, 16 bytes at a time where
the kernel can. What happens once per sample stands beside that way.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
from cuda_resources import demangled

BUILD = Path(__file__).parents[1] / "build" / "cuda"
LINE = re.compile(r"^\s+/\*([0-9a-f]+)\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][\w.]*)\s*([^;]*);", re.MULTILINE)
FUNCTION = re.compile(r"^\s+Function : (\S+)\n(.*?)(?=^\s+Function : |\Z)", re.MULTILINE | re.DOTALL)
SLOW = re.compile(r"^(MUFU\.RCP|F2I)")  # of a division: sixteen or more cycles, and a dozen instructions around it
PRODUCT, LOAD, WIDE_COPY = re.compile("HMMA"), re.compile(r"LDG|LD\."), re.compile(r"LDGSTS\S*128")
LEAVES = {"EXIT", "RET", "BRX", "KILL"}


def tool(name: str) -> str:
    """Return a CUDA program: on the path, of CUDA_HOME, or from the packages that `make cuda` installs."""
    site = Path(sys.executable).parents[1] / "lib"
    places = [shutil.which(name), *sorted(map(str, site.glob(f"python*/site-packages/nvidia/cu*/bin/{name}")))]
    found = next((place for place in places if place), None)
    if found is None:
        raise SystemExit(f"{name} must be installed, see `make cuda`")
    return found


@dataclass(frozen=True)
class Loop:
    """What belongs to a loop, and its shortest way round with the most of what is looked for."""

    members: frozenset[int]
    steady: tuple[int, ...]


@dataclass
class Kernel:
    """The instructions of a kernel by address, and what may follow each."""

    name: str
    names: dict[int, str] = field(default_factory=dict)
    after: dict[int, list[int]] = field(default_factory=dict)

    @classmethod
    def read(cls, name: str, text: str) -> Kernel:
        """Read what cuobjdump prints of one function."""
        kernel = cls(name)
        lines = [(int(at, 16), predicate, code, rest) for at, predicate, code, rest in LINE.findall(text)]
        following = dict(zip([at for at, *_ in lines], [at for at, *_ in lines[1:]], strict=False))
        joins: dict[int, tuple[str, int | None]] = {}  # of BSSY: a barrier and where it ends; of BSYNC: the barrier
        for at, predicate, code, rest in lines:
            kernel.names[at] = code
            kind, target = code.split(".")[0], re.search(r"0x([0-9a-f]+)\s*$", rest)
            goal = int(target[1], 16) if target else None
            # A branch on a uniform or thread predicate in its operands (BRA P0, ...) may also go on.
            falls = bool(predicate and predicate != "PT") or (kind == "BRA" and "," in rest)
            goes_on = at in following and (falls or kind not in {"BRA", "BSYNC", *LEAVES})
            kernel.after[at] = [following[at]] if goes_on else []
            # A call is a jump where what it goes to never returns; subroutines end, so they are in no loop.
            if kind in {"BRA", "CALL"} and goal is not None:
                kernel.after[at].append(goal)
            if kind in {"BSSY", "BSYNC"}:
                joins[at] = (rest.split(",")[0].strip(), goal)
        kernel._join(min(kernel.names), joins)
        return kernel

    def _join(self, start: int, joins: dict[int, tuple[str, int | None]]) -> None:
        """Let each BSYNC go on where the BSSY says that came before it on the way."""
        seen, open_ = {start}, [(start, dict[str, int]())]
        while open_:
            at, ends = open_.pop()
            barrier, goal = joins.get(at, ("", None))
            if barrier and goal is not None:
                ends = {**ends, barrier: goal}
            elif barrier and barrier in ends:
                self.after[at].append(ends[barrier])
            for a in self.after[at]:
                if a not in seen and a in self.names:
                    seen.add(a)
                    open_.append((a, ends))

    @cached_property
    def order(self) -> list[int]:
        """Return what can be reached, such that an instruction stands before what follows it, loops apart."""
        start, seen, done = min(self.names), set(), []
        stack: list[tuple[int, Iterator[int]]] = [(start, iter(self.after[start]))]
        seen.add(start)
        while stack:
            at, ahead = stack[-1]
            following = next((a for a in ahead if a not in seen), None)
            if following is None:
                done.append(at)
                stack.pop()
            else:
                seen.add(following)
                stack.append((following, iter(self.after[following])))
        return done[::-1]

    @cached_property
    def before(self) -> dict[int, list[int]]:
        """Return what may come before each instruction."""
        before: dict[int, list[int]] = {at: [] for at in self.order}
        for at in self.order:
            for a in self.after[at]:
                before[a].append(at)
        return before

    @cached_property
    def dominators(self) -> dict[int, int]:
        """Return for each instruction the last one before it that every way passes (Cooper, Harvey, Kennedy 2001)."""
        place = {at: i for i, at in enumerate(self.order)}
        found = {self.order[0]: self.order[0]}
        changed = True
        while changed:
            changed = False
            for at in self.order[1:]:
                new: int | None = None
                for b in self.before[at]:
                    if b not in found:
                        continue
                    while new is not None and new != b:
                        if place[new] > place[b]:
                            new = found[new]
                        else:
                            b = found[b]  # noqa: PLW2901 (walks up the tree)
                    new = b
                if new is not None and found.get(at) != new:
                    found[at] = new
                    changed = True
        return found

    def always_before(self, first: int, at: int) -> bool:
        """Return whether every way to an instruction passes another."""
        while at != first and self.dominators[at] != at:
            at = self.dominators[at]
        return at == first

    def loops(self, pattern: re.Pattern[str]) -> list[Loop]:
        """Return the innermost loops with an instruction that matches."""
        place = {at: i for i, at in enumerate(self.order)}
        ends: dict[int, list[int]] = {}
        for at in self.order:
            for a in self.after[at]:
                if place[a] <= place[at] and self.always_before(a, at):
                    ends.setdefault(a, []).append(at)
        bodies = {head: self._body(head, last) for head, last in ends.items()}
        holding = {h: b for h, b in bodies.items() if self.count(pattern, b)}
        innermost = {h: b for h, b in holding.items() if not any(o != h and o in b for o in holding)}
        return [Loop(body, self._shortest(head, body, ends[head])) for head, body in innermost.items()]

    def count(self, pattern: re.Pattern[str], among: Iterable[int]) -> int:
        """Return how many instructions match."""
        return sum(pattern.match(self.names[at]) is not None for at in among)

    def _body(self, head: int, last: Iterable[int]) -> frozenset[int]:
        body, open_ = {head}, list(last)
        while open_:
            at = open_.pop()
            if at not in body:
                body.add(at)
                open_ += self.before[at]
        return frozenset(body)

    def _shortest(self, head: int, body: frozenset[int], last: list[int]) -> tuple[int, ...]:
        """Find the shortest way from the head to an end with the most products, and then the most copies."""
        copy = WIDE_COPY if self.count(WIDE_COPY, body) else LOAD
        best: dict[int, tuple[int, int, int]] = {}
        came: dict[int, int] = {}
        for at in (a for a in self.order if a in body):
            ways = [(best[b], b) for b in self.before[at] if b in best] if at != head else [((0, 0, 0), -1)]
            if ways:
                (products, copies, length), came[at] = max(ways)
                hits = (self.count(PRODUCT, [at]), self.count(copy, [at]))
                best[at] = (products + hits[0], copies + hits[1], length - 1)
        way = [max((a for a in last if a in best), key=lambda a: best[a])]
        while way[-1] != head:
            way.append(came[way[-1]])
        return tuple(way)


def kernels(file: Path, architecture: str) -> Iterator[Kernel]:
    """Yield the kernels of an object file."""
    program, disassembler = tool("cuobjdump"), Path(tool("nvdisasm")).parent
    command = [program, "-sass", "-arch", architecture, str(file)]
    environment = {"PATH": f"{disassembler}:/usr/bin:/bin"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)  # noqa: S603
    for name, text in FUNCTION.findall(done.stdout):
        yield Kernel.read(name, text)


@dataclass(frozen=True)
class Count:
    """What a kernel's steady loop takes, and the instructions of divisions in any loop like it."""

    kernel: str
    products: int
    copies: int
    instructions: int
    divisions: int


def counts(file: Path, architecture: str, *, every: bool = False) -> list[Count]:
    """Return the counts of the kernels with matrix products, or of all that load in a loop."""
    found = []
    read = list(kernels(file, architecture))
    names = demangled([kernel.name for kernel in read]) if read else {}
    for kernel in read:
        products = kernel.count(PRODUCT, kernel.names) > 0
        loops = kernel.loops(PRODUCT if products else LOAD) if products or every else []
        if products and not loops:
            raise SystemExit(f"{names[kernel.name]} has matrix products, but no loop around them was found")
        if not loops:
            continue
        steady = max((loop.steady for loop in loops), key=lambda way: (kernel.count(PRODUCT, way), len(way)))
        numbers = [kernel.count(pattern, steady) for pattern in (PRODUCT, LOAD)]
        slow = max(kernel.count(SLOW, loop.members) for loop in loops)
        found.append(Count(names[kernel.name], *numbers, len(steady), slow))
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="kernels' files, by default those with tensor cores")
    parser.add_argument("--folder", type=Path, default=BUILD)
    parser.add_argument("--objects", type=Path, nargs="*", default=[], help="object files, instead of a folder's")
    parser.add_argument("--architecture", default="sm_90")
    chosen = parser.parse_args()
    patterns = [f"{name}.o" for name in chosen.files] or ["fisher_matmul*.o"]
    objects = chosen.objects or sorted(o for p in patterns for o in chosen.folder.rglob(f"cuda/{p}"))
    if not objects:
        raise SystemExit(f"no object files in {chosen.folder}: run `make cuda` first")
    print(f"| kernel, {chosen.architecture} | products | copies | instructions | per product | of divisions |")
    print("|---|---|---|---|---|---|")
    for file in objects:
        for c in counts(file, chosen.architecture, every=bool(chosen.files)):
            per = f"{c.instructions / c.products:.1f}" if c.products else ""
            print(f"| `{c.kernel}` | {c.products} | {c.copies} | {c.instructions} | {per} | {c.divisions} |")


if __name__ == "__main__":
    main()
