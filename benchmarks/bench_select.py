"""Time exact top-k over all parameters of a network, the masked update and its undo values, beside torch and numpy.

The scores are like a Fisher diagonal: values over many orders of magnitude. Two more kinds are mostly exact zeros, and
all equal. Everything is timed in turn with one read of the scores.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from sizes import PARAMETERS, SIZES
from torch import Tensor

from fastforget import ops

SHARES = [0.001, 0.01, 0.1, 0.5]
DATA = ["log-normal", "60% zeros", "all equal"]


def draw(shapes: list[tuple[int, ...]], data: str) -> list[Tensor]:
    """Return scores. Tensors differ in scale, as layers do."""
    generator = torch.Generator().manual_seed(0)
    scores = []
    for layer, shape in enumerate(shapes):
        score = torch.randn(shape, generator=generator).mul_(3).sub_(12 + layer % 7).exp_()
        if data == "60% zeros":
            score[torch.rand(shape, generator=generator) < 0.6] = 0
        scores.append(score if data != "all equal" else torch.full(shape, 1e-6))
    return scores


@dataclass
class Case:
    """Scores of one size and kind, with their parameters and directions."""

    scores: list[Tensor]
    parameters: list[Tensor]
    directions: list[Tensor]
    flat: Tensor

    @property
    def total(self) -> int:
        return len(self.flat)


@pytest.fixture(
    scope="module",
    params=PARAMETERS,
)
def size(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=DATA)
def data(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def case(size: str, data: str) -> Case:
    scores = draw(SIZES[size](), data)
    flat = torch.cat([score.flatten() for score in scores])
    return Case(scores, [torch.randn_like(s) for s in scores], [torch.randn_like(s) for s in scores], flat)


def cat(case: Case) -> Tensor:
    return torch.cat([score.flatten() for score in case.scores])


def partition(flat: Tensor, k: int) -> Any:
    return np.partition(flat.numpy(), len(flat) - k)[len(flat) - k]


def select_and_perturb(case: Case, k: int) -> tuple[Tensor, Tensor]:
    """Find threshold and mask, update, keep undo values. A step of zero keeps the parameters for the next round."""
    mask, _ = ops.select(case.scores, k)
    return mask, ops.perturb(case.parameters, case.directions, mask, k, 0.0)


PEERS: dict[str, Callable[[Case, int], Any]] = {
    "cat + numpy.partition": lambda case, k: partition(cat(case), k),
    "numpy.partition": lambda case, k: partition(case.flat, k),
    "cat + torch.topk": lambda case, k: cat(case).topk(k),
    "torch.topk": lambda case, k: case.flat.topk(k),
    "cat + torch.kthvalue": lambda case, k: cat(case).kthvalue(case.total - k + 1),
}
METHODS: dict[str, Callable[[Case, int], Any]] = {
    "one read": lambda case, _: case.flat.sum(),
    "fastforget": lambda case, k: ops.select(case.scores, k),
    "threshold to undo": select_and_perturb,
    **PEERS,
}


@pytest.mark.parametrize("share", SHARES)
def test_the_results_agree(case: Case, share: float) -> None:
    """Check before anything is timed: the threshold, exactly k with the first of the ties, update and undo."""
    k = round(share * case.total)
    mask, threshold = ops.select(case.scores, k)
    assert float(threshold) == partition(case.flat, k) == float(case.flat.kthvalue(case.total - k + 1).values)
    found = torch.cat([m.flatten() for m in ops.select_mask(mask, case.scores)])
    expected = case.flat > threshold
    ties = (case.flat == threshold).nonzero()[:, 0]
    expected[ties[: k - int(expected.sum())]] = True
    assert torch.equal(found, expected)

    before = torch.cat([p.flatten() for p in case.parameters])
    old = ops.perturb(case.parameters, case.directions, mask, k, 0.5)
    assert torch.equal(old, before[found])
    step = 0.5 * torch.cat([d.flatten() for d in case.directions])
    assert torch.equal(torch.cat([p.flatten() for p in case.parameters]), torch.where(found, before + step, before))
    ops.perturb_undo(case.parameters, mask, old)
    assert torch.equal(torch.cat([p.flatten() for p in case.parameters]), before)


@pytest.mark.parametrize("share", SHARES)
def test_select(case: Case, size: str, data: str, share: float, compared: Callable[..., None]) -> None:
    """Time all ways. ``fastforget`` finds the threshold and writes the mask in the same pass."""
    k = round(share * case.total)
    candidates = {name: lambda method=method: method(case, k) for name, method in METHODS.items()}
    figures = {"MB read once": 4e-6 * case.total}
    compared(f"select {share:.1%} of {size}, {data}", candidates, few=PEERS, figures=figures)


PEAK = """
import sys
import torch
import bench_select
from fastforget import ops

size, data, share, threads = sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
torch.set_num_threads(threads)
scores = bench_select.draw(bench_select.SIZES[size](), data)
parameters, directions = [s.clone() for s in scores], [s.clone() for s in scores]
total = sum(s.numel() for s in scores)
k = round(share * total)
few = [torch.rand(400_000)]
ops.perturb(few, few, ops.select(few, 10)[0], 10, 0.0)  # loads code, starts threads

def resident(key):
    with open("/proc/self/status") as lines:
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(key))

def peak(function):
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak starts from here
    before = resident("VmRSS")
    result = function()
    return result, (resident("VmHWM") - before - result.nbytes) / (4 * total)

mask, select = peak(lambda: ops.select(scores, k)[0])
_, perturb = peak(lambda: ops.perturb(parameters, directions, mask, k, 0.5))
print(f"{select:.4f} {perturb:.4f}")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("share", [0.01, 0.5])
@pytest.mark.parametrize("threads", [1, 2], indirect=True)
def test_peak_memory(
    size: str, data: str, share: float, threads: int, pytestconfig: pytest.Config, benchmark: Any
) -> None:
    """Measure the memory beyond the results, as a share of the scores, in a process of its own."""
    command = [sys.executable, "-c", PEAK, size, data, str(share), str(threads)]
    folder = pytestconfig.rootpath / "benchmarks"

    def run() -> Any:
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603

    found = benchmark.pedantic(run)
    assert found.returncode == 0, found.stderr
    peak = max(map(float, found.stdout.split()))
    benchmark.group = f"selection memory {share:.0%} of {size}, {data}"
    benchmark.extra_info.update(
        group=benchmark.group, threads=threads, seconds={}, verdicts={}, figures={"extra memory": peak}
    )
