"""Time the diagonal Fisher of whole networks, beside a plain forward and backward and beside other libraries."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import memory
import peers
import pytest
import torch
from candidates import METHODS, OURS, PLAIN
from torch import Tensor, nn
from verdicts import attempted
from workloads import WORKLOADS, Workload

import fastforget
from fastforget.fisher.compute import cross_entropy

CHECKED = 2  # samples on which the results are checked before anything is timed


@dataclass
class Case:
    """A workload that is ready to run, and the verdict on every candidate."""

    name: str
    model: nn.Module
    samples: tuple[Tensor, Tensor]
    verdicts: dict[str, str]


def wide(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def verdicts(workload: Workload) -> dict[str, str]:
    """Compare ours and every peer with the loop over samples in float64.

    A result that differs only in float32 is right: some value at the kink of a ReLU was rounded to the other side. The
    table says so.
    """
    model, exact_model = workload.model(), workload.model().double()
    inputs, targets = workload.samples(CHECKED)
    exact = peers.prepare("batch-1 loop", exact_model, cross_entropy)(wide(inputs), targets)

    def verdict(method: Callable[..., Any]) -> str:
        found = attempted(lambda: method(model, inputs, targets), exact)
        if not found.startswith("wrong"):
            return found
        again = attempted(lambda: method(exact_model, wide(inputs), targets), exact, tolerance=1e-8)
        return "ok in float64" if again == "ok" else found

    found = {OURS: verdict(fastforget.fisher_diagonal)}
    for name in peers.MODULES:
        found[name] = verdict(lambda m, x, t, name=name: peers.prepare(name, m, cross_entropy)(x, t))
    return found


def parameters() -> Iterator[Any]:
    for name, workload in WORKLOADS.items():
        yield pytest.param(name, marks=[] if workload.quick else [pytest.mark.slow])


@pytest.fixture(scope="module", params=parameters())
def case(request: pytest.FixtureRequest, smoke: bool) -> Case:
    workload = WORKLOADS[request.param]
    found = verdicts(workload)
    assert found[OURS].startswith("ok"), found[OURS]
    samples = workload.samples(CHECKED if smoke else workload.batch)
    return Case(request.param, workload.model(), samples, found)


def test_fisher(case: Case, compared: Callable[..., None]) -> None:
    """Time the candidates whose results are right."""
    candidates = {name: lambda method=method: method(case.model, *case.samples) for name, method in METHODS.items()}
    right = [name for name, verdict in case.verdicts.items() if verdict.startswith("ok") and name != OURS]
    for name in right:
        method = peers.prepare(name, case.model, cross_entropy)
        candidates[name] = lambda method=method: method(*case.samples)
    compared(f"fisher {case.name}", candidates, few=right, verdicts=case.verdicts)


@pytest.mark.parametrize("threads", [2], indirect=True)
def test_speed_up(case: Case, compared: Callable[..., None]) -> None:
    """Compare one thread with two, in wall time."""

    def on(threads: int, name: str) -> Callable[[], Any]:
        def run() -> Any:
            torch.set_num_threads(threads)
            return METHODS[name](case.model, *case.samples)

        return run

    candidates = {f"{name}, {count}": on(count, name) for name in (PLAIN, OURS) for count in (1, 2)}
    compared(f"speed-up {case.name}", candidates)


@pytest.mark.parametrize("threads", [1], indirect=True)
def test_memory(case: Case, benchmark: Any, threads: int) -> None:
    """Measure peak memory beyond the model, its inputs and the interpreter. Ours may hold one result more."""
    batch = len(case.samples[1])
    benchmark.group = f"memory {case.name}"
    peaks: dict[str, int] = {}
    benchmark.pedantic(lambda: peaks.update({n: memory.peak(case.name, n, batch=batch) for n in (PLAIN, OURS)}))
    result = sum(p.nbytes for p in case.model.parameters())
    figures = {f"{name}, MB": value / 1e6 for name, value in peaks.items()}
    figures |= {"result, MB": result / 1e6, "memory": (peaks[OURS] - result) / peaks[PLAIN]}
    benchmark.extra_info.update(group=benchmark.group, threads=threads, seconds={}, verdicts={}, figures=figures)
