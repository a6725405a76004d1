"""Time gradient projection (PCGrad) over lists of tensors, beside the time of its bytes and beside peers.

The bound is 2K reads and 1 write of the parameters' size. The fastest simple calls time it in the same run:
``torch.dot`` reads two tensors, ``fill_`` writes one.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from alternate import alternate, clock
from sizes import PARAMETERS, SIZES
from torch import Tensor

from fastforget import harmonize, ops

Tasks = Sequence[list[Tensor]]

TASKS = [2, 4, 8]
CALLS = 20  # in a row, where one takes less than a millisecond


@pytest.fixture(scope="module", params=PARAMETERS)
def gradients(request: pytest.FixtureRequest) -> tuple[str, Tasks]:
    """Return gradients of eight tasks. Neighbours conflict; every second task shares a direction."""
    generator = torch.Generator().manual_seed(0)
    shapes = SIZES[request.param]()
    shared = [torch.randn(shape, generator=generator) for shape in shapes]
    draw = lambda k: [torch.randn_like(s).add_(s, alpha=0.5 - k % 2) for s in shared]  # noqa: E731
    return request.param, [draw(k) for k in range(max(TASKS))]


def with_foreach(tasks: Tasks) -> list[Tensor]:
    def product(a: list[Tensor], b: list[Tensor]) -> Tensor:
        return torch.stack([p.sum() for p in torch._foreach_mul(a, b)]).sum()  # noqa: SLF001

    squares = [product(task, task) for task in tasks]
    total: list[Tensor] = []
    for i, task in enumerate(tasks):
        g = [tensor.clone() for tensor in task]
        for j, other in enumerate(tasks):
            if i != j and (inner := product(g, other)) < 0:
                torch._foreach_add_(g, other, alpha=-float(inner / squares[j]))
        total = torch._foreach_add(total, g) if total else g  # noqa: SLF001
    return total


def with_flat_vectors(tasks: Tasks) -> list[Tensor]:
    rows = [torch.cat([tensor.flatten() for tensor in task]) for task in tasks]
    total = torch.zeros_like(rows[0])
    for i, row in enumerate(rows):
        g = row.clone()
        for j, other in enumerate(rows):
            if i != j and (inner := torch.dot(g, other)) < 0:
                g.add_(other, alpha=-float(inner / torch.dot(other, other)))
        total.add_(g)
    return split(total, tasks[0])


def with_torchjd(tasks: Tasks) -> list[Tensor]:
    aggregator = pytest.importorskip("torchjd.aggregation").PCGrad()
    return split(aggregator(torch.stack([torch.cat([t.flatten() for t in task]) for task in tasks])), tasks[0])


def split(flat: Tensor, like: list[Tensor]) -> list[Tensor]:
    return [part.view_as(t) for part, t in zip(flat.split([t.numel() for t in like]), like, strict=True)]


PEERS = {"torch._foreach": with_foreach, "cat, dot, add_": with_flat_vectors, "torchjd": with_torchjd}


@pytest.mark.parametrize("tasks", TASKS)
@pytest.mark.parametrize("peer", PEERS)
def test_the_results_agree(gradients: tuple[str, Tasks], peer: str, tasks: int) -> None:
    """Check before anything is timed. Peers get float64 here: their float32 inner products are good to 1e-4.

    TorchJD draws its order at random, so ours draws the same one.
    """
    size, everyone = gradients
    if size == "86M" and tasks > 2:
        pytest.skip("takes 20 GB")
    given = everyone[:tasks]
    torch.manual_seed(0)
    expected = PEERS[peer]([[tensor.double() for tensor in task] for task in given])
    draw = torch.Generator().manual_seed(0) if peer == "torchjd" else None
    found = harmonize(*given, project="both", generator=draw)
    errors = sum(float((a - b).square().sum()) for a, b in zip(found, expected, strict=True))
    assert errors**0.5 <= 1e-6 * sum(float(b.square().sum()) for b in expected) ** 0.5


@pytest.mark.parametrize("tasks", TASKS)
def test_project(gradients: tuple[str, Tasks], tasks: int, compared: Callable[..., None]) -> None:
    """Time all ways. Ours reuses the memory of its results unless the name says otherwise; peers allocate theirs."""
    size, everyone = gradients
    given = everyone[:tasks]
    out = [torch.zeros_like(tensor) for tensor in given[0]]
    flat = [torch.cat([tensor.flatten() for tensor in task]) for task in given[:2]]
    written = torch.zeros_like(flat[0])
    peers = {} if size == "86M" and tasks > 2 else dict(PEERS)
    verdicts = dict.fromkeys(PEERS, "ok" if peers else "not run: takes 20 GB")
    if importlib.util.find_spec("torchjd") is None:
        peers.pop("torchjd", None)
        verdicts["torchjd"] = "not installed: torchjd"
    candidates: dict[str, Callable[[], Any]] = {
        "bound": lambda: ([torch.dot(*flat) for _ in given], written.fill_(1.0)),
        "fastforget": lambda: harmonize(*given, project="both", out=out),
        "fastforget, per tensor": lambda: harmonize(*given, project="both", scope="tensor", out=out),
        "fastforget, new memory": lambda: harmonize(*given, project="both"),
        **{name: lambda peer=peer: peer(given) for name, peer in peers.items()},
    }
    moved = (2 * tasks + 1) * sum(tensor.nbytes for tensor in given[0])
    figures = {"GB moved": moved / 1e9}
    compared(f"project {size}, K = {tasks}", candidates, few=peers, verdicts=verdicts, figures=figures)


@pytest.mark.parametrize("threads", [1], indirect=True)
def test_host(threads: int, compared: Callable[..., None]) -> None:
    """Time what the host takes: gradients of two tasks so small, 152 tensors each, that nothing else counts.

    The first candidate is the operator alone, without the numbers that it is sent; the last also makes 152 results.
    """
    assert threads == 1
    generator = torch.Generator().manual_seed(0)
    tasks = [{f"{n}": torch.randn(2, 3, generator=generator) for n in range(152)} for _ in range(2)]
    out, order = {name: torch.empty_like(grad) for name, grad in tasks[0].items()}, torch.tensor([[1], [-1]])
    grads = [grad for task in tasks for grad in task.values()]
    results = list(out.values())
    expected = harmonize(*tasks)
    harmonize(*tasks, out=out)
    assert all(torch.equal(out[name], value) for name, value in expected.items())

    def calls(call: Callable[[], Any]) -> Callable[[], None]:
        def run() -> None:
            for _ in range(CALLS):
                call()

        return run

    candidates = {
        "operator": calls(lambda: ops.project(grads, order, results)),
        "harmonize, results given": calls(lambda: harmonize(*tasks, out=out)),
        "harmonize": calls(lambda: harmonize(*tasks)),
    }
    seconds = alternate(candidates, 40, clock=clock(1))
    # The least of the rounds: a time that is compared with a fixed one must not hold what others on the machine do.
    figures = {f"ms of {name}": 1e3 * min(times) / CALLS for name, times in seconds.items()}
    compared("host time of harmonize, 2 x 152 tensors", candidates, figures=figures)
