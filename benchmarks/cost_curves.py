"""How cost grows with the number of classes and of parameters, with the slope of each curve.

python benchmarks/cost_curves.py                  all curves; minutes
python benchmarks/cost_curves.py --small          shows that every curve runs; nothing is saved

Every result is checked before it is timed. Times are the processor's, on one thread, and medians over rounds in which
all candidates run in turn. A point that needs more memory than is available is left out and named. Results go to
benchmarks/results/cost-curves.json, and the table to docs/results/scale.md.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import linear_regression, median
from typing import Any

import torch
import torch.nn.functional as F
from alternate import alternate
from machine import commit, facts
from torch import Tensor, nn

import fastforget
from fastforget import MnemonicCodes, ops

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "cost-curves.json", ROOT / "docs" / "results" / "scale.md"
BEGIN, END = "<!-- written by benchmarks/cost_curves.py -->", "<!-- end of what it wrote -->"
LONG = 10.0  # seconds of a round, from where on one is enough
SHARE = 0.003  # of the elements that are selected, as `one_shot` does by default
SPARE = 2 * 2**30  # bytes of memory that are left to others
CLASSES_OF_WIDE, SIZE = 10, 12


@dataclass
class Point:
    """One size on a curve: milliseconds of each candidate, or why there are none."""

    size: int
    ms: dict[str, float] = field(default_factory=dict)
    left_out: str = ""


@dataclass
class Curve:
    """Points, the smallest first.

    Attributes:
        name: What is timed.
        unit: What is counted.
        baseline: The candidate that the others are divided by.
        points: The points.
    """

    name: str
    unit: str
    baseline: str
    points: list[Point] = field(default_factory=list)

    def slope(self, candidate: str) -> float:
        """Return the slope of the logarithm of the time over that of the size, over the three largest points."""
        known = [(math.log(p.size), math.log(p.ms[candidate])) for p in self.points if candidate in p.ms][-3:]
        return linear_regression(*zip(*known, strict=True)).slope if len(known) > 1 else math.nan


def available() -> float:
    """Return how many bytes of memory may be used."""
    found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    return 1024 * int(found[1]) - SPARE if found else math.inf


def timed(candidates: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Return medians over rounds, after one to warm up; of what takes long, the times of that one."""
    seconds = alternate(candidates, 1, clock=time.process_time, warm_up=False)
    if sum(times[0] for times in seconds.values()) < LONG:
        seconds = alternate(candidates, rounds, clock=time.process_time, warm_up=False)
    return {name: float(f"{1e3 * median(times):.4g}") for name, times in seconds.items()}


def draw(elements: int, seed: int) -> list[Tensor]:
    """Return tensors of so many elements in all, as many as a network of that size might have."""
    generator = torch.Generator().manual_seed(seed)
    largest = max(1000, elements // 40)
    sizes = [largest] * (elements // largest) + ([elements % largest] if elements % largest else [])
    return [torch.empty(size).normal_(-12, 3, generator=generator).exp_() for size in sizes]


def selection(elements: int, rounds: int) -> dict[str, float]:
    """Time the k largest, their update and its undo values. Directions are the scores: a third list is much memory."""
    scores = draw(elements, 0)
    parameters = [torch.ones_like(score) for score in scores]
    k = round(SHARE * elements)
    mask, threshold = ops.select(scores, k)
    marked = sum(int(found.sum()) for found in ops.select_mask(mask, scores))
    above = sum(int((score > threshold).sum()) for score in scores)
    assert marked == k, f"{k} elements must be marked, got {marked}"
    assert above < k <= above + sum(int((score == threshold).sum()) for score in scores), "not the k-th largest"
    old = ops.perturb(parameters, scores, mask, k, 0.5)
    assert bool((old == 1).all()), "the old values must be those before"
    ops.perturb_undo(parameters, mask, old)
    assert all(bool((parameter == 1).all()) for parameter in parameters), "every bit must come back"

    def both() -> Tensor:
        return ops.perturb(parameters, scores, ops.select(scores, k)[0], k, 0.0)

    candidates: dict[str, Callable[[], Any]] = {
        "one read": lambda: [score.sum() for score in scores],
        "select": lambda: ops.select(scores, k),
        "select and perturb": both,
    }
    return timed(candidates, rounds)


def knowing(model: nn.Sequential, codes: MnemonicCodes) -> nn.Sequential:
    """Fit the last layer to the codes: rows towards a class's own features, away from the mean, log-odds of 8 nats."""
    body, head = model[:-1], model[-1]
    assert isinstance(head, nn.Linear)
    with torch.no_grad():
        features = torch.cat([body(part) for part in codes.inputs.split(500)])
        rows = F.normalize(features - features.mean(0), dim=1)
        spread = (features - features.mean(0)).norm(dim=1).mean()
        scale = (8 + math.log(len(codes))) / (0.7 * spread)
        head.weight.copy_(rows * scale)
        head.bias.copy_(-(head.weight @ features.mean(0)))
    return model.eval()


def images(classes: int) -> tuple[nn.Sequential, MnemonicCodes]:
    """Return a small convolutional network for so many classes that knows its codes, one for each class."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU(), nn.Conv2d(64, 64, 3, 2, 1),
        nn.ReLU(), nn.Flatten(), nn.Linear(64 * (SIZE // 4) ** 2, 256), nn.ReLU(), nn.Linear(256, classes),
    )  # fmt: skip
    codes = MnemonicCodes.generate(classes, (3, SIZE, SIZE), per_class=1)
    return knowing(model, codes), codes


def wide(parameters: int) -> tuple[nn.Sequential, MnemonicCodes]:
    """Return a network of four linear layers, of about so many parameters, that knows its codes."""
    torch.manual_seed(0)
    width = round((math.sqrt(77**2 + 8 * parameters) - 77) / 4)  # 2 w^2 + 77 w
    model = nn.Sequential(
        nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
        nn.Linear(width, CLASSES_OF_WIDE),
    )  # fmt: skip
    codes = MnemonicCodes.generate(CLASSES_OF_WIDE, (64,), per_class=1)
    return knowing(model, codes), codes


def forgetting(model: nn.Sequential, codes: MnemonicCodes, rounds: int, *, edits: bool) -> dict[str, float]:
    """Time the Fisher of all codes and `one_shot`, beside a plain forward and backward of the codes."""
    parameters, batch = list(model.parameters()), min(1000, len(codes.labels))

    def plain() -> None:
        for x, y in zip(codes.inputs.split(batch), codes.labels.split(batch), strict=True):
            torch.autograd.grad(F.cross_entropy(model(x), y), parameters)

    def fisher() -> None:
        total = None
        for x, y in zip(codes.inputs.split(batch), codes.labels.split(batch), strict=True):
            total = fastforget.fisher_diagonal(model, x, y, reduction="sum", into=total)

    class Editing:
        receipt: Any = None

        def __call__(self) -> None:
            self.receipt = fastforget.one_shot(model, codes, 3, batch_size=batch)

        def undo(self) -> None:
            with torch.no_grad():
                assert int(model(codes.inputs[3:4]).argmax()) != 3, "the class must be forgotten"
            self.receipt.revert(model)

    candidates: dict[str, Callable[[], Any]] = {"forward and backward": plain, "fisher_diagonal": fisher}
    if edits:
        candidates["one_shot"] = Editing()
    return timed(candidates, rounds)


@dataclass(frozen=True)
class Task:
    """Sizes, the bytes that the largest need, and how a size is timed."""

    curve: Curve
    sizes: tuple[int, ...]
    small: tuple[int, ...]
    needs: Callable[[int], float]
    run: Callable[[int, int], dict[str, float]]


def tasks() -> list[Task]:
    def of_classes(classes: int, rounds: int) -> dict[str, float]:
        return forgetting(*images(classes), rounds, edits=True)

    def of_parameters(parameters: int, rounds: int) -> dict[str, float]:
        return forgetting(*wide(parameters), rounds, edits=28 * parameters < available())

    return [
        Task(
            Curve("select and perturb", "elements", "one read"),
            (10**5, 10**6, 10**7, 10**8, 10**9),
            (10**4, 10**5),
            lambda n: 8.5 * n,
            selection,
        ),
        Task(
            Curve("classes, one code each", "classes", "forward and backward"),
            (10, 100, 1000, 10_000),
            (10, 20),
            lambda n: 60.0 * n**2,
            of_classes,
        ),
        Task(
            Curve("parameters, ten codes", "parameters", "forward and backward"),
            (10**5, 10**6, 10**7, 10**8, 10**9),
            (10**4, 10**5),
            lambda n: 12.0 * n,
            of_parameters,
        ),
    ]


def points(task: Task, sizes: tuple[int, ...], rounds: int) -> Iterator[Point]:
    for size in sizes:
        need = task.needs(size)
        if need > available():
            yield Point(size, left_out=f"it needs {need / 1e9:.1f} GB of memory")
            continue
        started = time.process_time()
        yield Point(size, task.run(size, rounds))
        print(f"{task.curve.name}, {size:,}: {time.process_time() - started:.0f} s", flush=True)


def table(curves: list[Curve]) -> str:
    """Return the curves as Markdown tables: milliseconds, and multiples of the baseline."""
    parts = []
    for curve in curves:
        names = list(dict.fromkeys(name for point in curve.points for name in point.ms))
        lines = [row(curve.name, [f"{name}, ms" for name in names]), "|---" * (len(names) + 1) + "|"]
        for point in curve.points:
            cells = [cell(point, name, curve.baseline) for name in names]
            lines.append(row(f"{point.size:,}", [point.left_out, *cells[1:]] if point.left_out else cells))
        lines.append(row("*slope*", [f"{curve.slope(name):.2f}" for name in names]))
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def row(first: str, cells: list[str]) -> str:
    return f"| {first} | " + " | ".join(cells) + " |"


def cell(point: Point, name: str, baseline: str) -> str:
    if name not in point.ms:
        return "not run"
    ms = point.ms[name]
    text = f"{ms:,.3g}" if ms < 1000 else f"{ms:,.0f}"
    return text if name == baseline else f"{text} ({ms / point.ms[baseline]:.2f} x)"


def write_page(text: str, page: Path = PAGE) -> None:
    """Put the tables between the two marks of the page."""
    before, rest = page.read_text().split(BEGIN)
    page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.split(END)[1]}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="the smallest sizes; nothing is saved")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    curves = []
    for task in tasks():
        sizes = task.small if arguments.small else task.sizes
        task.curve.points += points(task, sizes, 1 if arguments.small else arguments.rounds)
        curves.append(task.curve)
    print(table(curves))
    if not arguments.small:
        about = {**facts(), "date": time.strftime("%Y-%m-%d", time.gmtime()), "commit": commit()}
        found = [{**asdict(c), "slopes": {n: round(c.slope(n), 3) for n in c.points[0].ms}} for c in curves]
        RESULTS.write_text(json.dumps({"facts": about, "curves": found}, indent=1) + "\n")
        write_page(table(curves))
    return 0


if __name__ == "__main__":
    sys.exit(main())
