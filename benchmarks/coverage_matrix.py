"""Find out which layers give the right diagonal Fisher, here and in other libraries; write docs/results/coverage.md.

    python benchmarks/coverage_matrix.py             # libraries that are not installed are named as such
    python benchmarks/coverage_matrix.py --details   # also print what is wrong, and the text of every error

Every case runs in a process of its own. So a library that crashes, or leaves something behind, spoils one case only.
"""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timezone
from multiprocessing.connection import Connection
from pathlib import Path

import peers
import torch
from layers import CASES, Case
from machine import facts
from torch import Tensor, nn
from verdicts import TOLERANCE, attempted

import fastforget

PAGE = Path(__file__).parents[1] / "docs" / "results" / "coverage.md"
OURS = "fastforget"
HALF_TOLERANCE = 0.1  # for a bfloat16 model: its activations have three digits, their squares fewer
TARGETS = torch.linspace(-1, 1, 4)
INTRODUCTION = """# Coverage

**What was measured.** The diagonal Fisher of every parameter, from each library. It is compared
with autograd on one sample at a time in float64.

**How.** `make coverage` on {date}: PyTorch {torch},
{libraries}.
Models are in eval mode. Each library gets its most permissive documented settings
(`benchmarks/peers/`).

**What to see.** The first row counts the cases that a library gets right.

* **ok**: every tensor is there. Its relative error (norm of the difference ÷ norm) is at most
  {tolerance:g}, or {half_tolerance:g} for the bfloat16 model.
* **wrong**: a tensor differs, and nothing said so.
* **missing**: a tensor is left out.
* **error**: an exception or a crash. `python benchmarks/coverage_matrix.py --details` prints which.
* *how*: what computed the result in fastforget. *Fused* is a fused kernel. *Per sample* is the
  exact path sample by sample, which `fisher_diagonal(...).fallback` reports.
"""


def square_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return one loss per sample, for outputs of any shape."""
    return ((outputs.flatten(1) - targets[:, None]) ** 2).mean(1)


def prepared(case: Case) -> nn.Module:
    """Build a case's module with parameters and statistics unlike their initial values."""
    torch.manual_seed(0)
    model = case.build().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_()
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2)
    return model.to(case.dtype)


def verdict(name: str, method: str) -> tuple[str, str]:
    """Compare a method with the float64 loop. Return the verdict, and how fastforget computed its result."""
    case = CASES[name]
    model = prepared(case)
    floating = case.inputs.is_floating_point()
    inputs, targets = case.inputs.to(case.dtype) if floating else case.inputs, TARGETS.to(case.dtype)
    exact_model = copy.deepcopy(model).double()
    exact = peers.prepare("batch-1 loop", exact_model, square_error)(
        inputs.double() if floating else inputs, targets.double()
    )
    tolerance = TOLERANCE if case.dtype == torch.float32 else HALF_TOLERANCE
    fallback: dict[str, str] = {}

    def run() -> dict[str, Tensor]:
        if method != OURS:
            return peers.prepare(method, model, square_error)(inputs, targets)
        found = fastforget.fisher_diagonal(model, inputs, targets, loss=square_error)
        fallback.update(found.fallback)
        return found

    found = attempted(run, exact, tolerance=tolerance)
    how = "fused" if not fallback else "per sample" if len(fallback) == len(exact) else "fused, some per sample"
    return found, how if method == OURS else ""


def isolated(name: str, method: str) -> tuple[str, str]:
    """Return the verdict from a process of its own."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def work(connection: Connection) -> None:
        connection.send(verdict(name, method))

    process = context.Process(target=work, args=(sender,))
    process.start()
    sender.close()
    try:
        found: tuple[str, str] = receiver.recv()
    except EOFError:
        process.join()
        found = (f"error: the process ended with {process.exitcode}", "")
    process.join()
    return found


def short(found: str) -> str:
    """Return the verdict without the text of an error."""
    return found if found.startswith(("ok", "not")) else found.partition(":")[0]


def page(found: dict[str, dict[str, tuple[str, str]]], methods: list[str]) -> Iterator[str]:
    """Yield the lines of the page."""
    machine = facts()
    right = {method: sum(row[method][0] == "ok" for row in found.values()) for method in methods}
    yield INTRODUCTION.format(
        date=f"{datetime.now(timezone.utc):%Y-%m-%d}",
        libraries=",\n".join(f"{name} {version}" for name, version in machine["libraries"].items()),
        torch=machine["torch"],
        tolerance=TOLERANCE,
        half_tolerance=HALF_TOLERANCE,
    )
    yield f"| | {' | '.join(methods)} | how |"
    yield f"|---|{'---|' * (len(methods) + 1)}"
    yield f"| **ok, of {len(found)}** | {' | '.join(f'**{right[method]}**' for method in methods)} | |"
    for name, row in found.items():
        yield f"| {name} | {' | '.join(short(row[method][0]) for method in methods)} | {row[OURS][1]} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=PAGE)
    parser.add_argument("--details", action="store_true", help="print everything that is not right")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # before anything runs: processes are forked from this one
    for name in peers.MODULES:  # once, instead of in every process
        with suppress(ImportError):
            peers.load(name)
    methods = [OURS, *(name for name in peers.MODULES if name not in {"batch-1 loop", "hooks + bmm"})]
    found = {name: {method: isolated(name, method) for method in methods} for name in CASES}
    arguments.output.write_text("\n".join(page(found, methods)) + "\n")
    failed = [f"{name}: {row[OURS][0]}" for name, row in found.items() if row[OURS][0] != "ok"]
    for name, row in found.items() if arguments.details else ():
        for method, (words, _) in row.items():
            if words != "ok":
                print(f"{name:32} {method:12} {words}")
    print(f"{arguments.output}: {len(found)} cases; {OURS} fails {len(failed)}", *failed, sep="\n  ")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
