"""Compare `fisher_diagonal` with a float64 loop over single samples, for the models of transformers and timm.

    python benchmarks/sweep/run.py                  # everything; adds the rows and writes docs/results/architectures.md
    python benchmarks/sweep/run.py --only few       # a reduced set
    python benchmarks/sweep/run.py --only BertForSequenceClassification hiera_tiny_224

Every architecture runs in a process of its own, with a time limit. The exit status says whether one is not right.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path[1:1] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "quality")]  # what benchmarks share

import page
import subjects
import torch
from architectures import ARCHITECTURES, FEW, LARGE, Architecture
from common import save_rows
from libraries import import_timm, import_transformers
from torch import Tensor
from verdicts import TOLERANCE, ZERO

import fastforget

Row = dict[str, Any]

FOLDER = Path(__file__).parents[1] / "results"
LIMIT = 180  # seconds for an architecture
ROUNDS = 5


def errors(found: Mapping[str, Tensor], exact: Mapping[str, Tensor]) -> dict[str, float]:
    """Return each parameter's norm of the difference, relative to its norm, or if it is zero, to the largest norm."""
    largest = max(float(value.norm()) for value in exact.values())

    def error(name: str) -> float:
        scale = float(exact[name].norm())
        difference = float((found[name].double() - exact[name]).norm())
        value = difference / (scale if scale > ZERO * largest else largest)
        return math.inf if math.isnan(value) else value

    return {name: error(name) for name in exact}


def measured(architecture: Architecture) -> Row:
    """Return the row of one architecture."""
    subject = subjects.prepared(architecture)
    wide = subjects.doubled(subject)
    exact, slope = subjects.exact_fisher(wide), subjects.slope_error(wide)
    row: Row = {"parameters": sum(p.numel() for p in subject.model.parameters()), "slope_error": slope}
    try:
        found = fisher_of(subject)
        by_name = errors(found, exact)
        worst = max(by_name, key=by_name.__getitem__)
        row.update(error=by_name[worst], worst=worst, verdict="ok")
        if by_name[worst] > TOLERANCE:  # rounding in float32, or a fault?
            row["float64_error"] = max(errors(fisher_of(wide), exact).values())
            row["loop_error"] = max(errors(subjects.exact_fisher(subject), exact).values())
            row["verdict"] = "rounding" if row["float64_error"] <= page.FLOAT64_TOLERANCE else "wrong"
    except Exception as error:  # noqa: BLE001 - the table shows whatever is raised
        return {**row, "verdict": "refused", "why": described(error)}
    return {**row, **shares(subject, found), "ratio": ratio(subject)}


def shares(subject: subjects.Subject, found: fastforget.FisherDiagonal) -> Row:
    """Return which share of the parameters the kernels served, and why not the others."""
    sizes = {name: p.numel() for name, p in subject.model.named_parameters()}
    reasons = Counter[str]()
    for name, reason in found.fallback.items():
        reasons[reason] += sizes[name]
    total = sum(sizes.values())
    fallback = {reason: count / total for reason, count in reasons.most_common()}
    return {
        "fused": 1 - sum(reasons.values()) / total,
        "fallback": fallback,
        "fallback_names": list(found.fallback)[:4],
    }


def timed(architecture: Architecture) -> Row:
    """Return the time of a large architecture; whether it is right shows on the small one."""
    subject = subjects.prepared(architecture)
    total = sum(p.numel() for p in subject.model.parameters())
    return {"parameters": total, **shares(subject, fisher_of(subject)), "ratio": ratio(subject)}


def described(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:200]


def fisher_of(subject: subjects.Subject) -> fastforget.FisherDiagonal:
    return fastforget.fisher_diagonal(subject.model, subject.inputs, subject.targets, loss=subject.loss)


def ratio(subject: subjects.Subject) -> float:
    """Return the time of `fisher_diagonal`, divided by that of a forward and backward: the best of some, in turn."""
    parameters, every = list(subject.model.parameters()), torch.arange(len(subject.targets))

    def plain() -> None:
        torch.autograd.grad(subjects.losses_of(subject, every).mean(), parameters, allow_unused=True)

    def ours() -> None:
        fisher_of(subject)

    times = [(seconds(plain), seconds(ours)) for _ in range(ROUNDS)]
    return min(own for _, own in times) / min(base for base, _ in times)


def seconds(step: Callable[[], None]) -> float:
    """Return the processor time of a step."""
    start = time.process_time()
    step()
    return time.process_time() - start


def isolated(architecture: Architecture, measure: Callable[[Architecture], Row]) -> Row:
    """Return the row from a process of its own, which is ended when its time is over."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def work(connection: Connection) -> None:
        torch.set_num_threads(1)
        try:
            connection.send(measure(architecture))
        except Exception as error:  # noqa: BLE001 - a model that cannot be built, or run by itself, is shown too
            connection.send({"verdict": "failed", "why": described(error)})

    process = context.Process(target=work, args=(sender,))
    process.start()
    sender.close()
    row: Row = {"verdict": "failed", "why": f"no result in {LIMIT} s"}
    try:
        if receiver.poll(LIMIT):
            row = receiver.recv()
    except EOFError:
        row = {"verdict": "failed", "why": "the process ended without a result"}
    process.kill()
    process.join()
    return {"model": architecture.model, "library": architecture.library, "family": architecture.family, **row}


def summary(row: Row) -> str:
    words = [f"{row['model']:45} {row.get('verdict', 'timed'):8}"]
    words += [
        f"{name} {row[name]:.0e}" for name in ("error", "float64_error", "loop_error", "slope_error") if name in row
    ]
    if "fused" in row:
        words.append(f"fused {row['fused']:.1%}, x {row['ratio']:.2f}")
        words += [f"{reason} ({share:.1%})" for reason, share in row["fallback"].items()]
    return "  ".join([*words, row.get("why", "")])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", help='names, "few" for a reduced set, "large" for the times of large ones')
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder for the rows, as JSON")
    arguments = parser.parse_args()
    names: Sequence[str] = arguments.only or [*ARCHITECTURES]
    sets = {"few": FEW, "large": ()}
    chosen = [name for given in names for name in sets.get(given, (given,))]
    import_transformers()
    import_timm()
    rows, large = [], []
    for name in chosen:
        rows.append(isolated(ARCHITECTURES[name], measured))
        print(summary(rows[-1]), flush=True)
    for architecture in LARGE.values() if arguments.only in (None, ["large"]) else ():
        large.append(isolated(architecture, timed))
        print(summary(large[-1]), flush=True)
    arguments.output.mkdir(parents=True, exist_ok=True)
    save_rows("architectures", rows, arguments.output, ["model"])
    save_rows("architectures-large", large, arguments.output, ["model"])
    if arguments.output == FOLDER:
        page.write(FOLDER)
    sys.exit(any(row["verdict"] not in ("ok", "rounding") for row in rows))


if __name__ == "__main__":
    main()
