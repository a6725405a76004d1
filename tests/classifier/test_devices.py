"""Values are read from a device together, checks are deferred, and generators in use are known."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from asserts import assert_same_bits
from simulated_device import dispatched, simulated_device, to_cpu, to_device

from fastforget.classifier.devices import DeferredChecks, random_devices, read_values, upload, write_numbers


def test_generators_that_matter() -> None:
    kinds = ("cpu", "cuda:1", "cuda:0", "cuda:1", "meta")
    found = random_devices(*(SimpleNamespace(device=torch.device(kind)) for kind in kinds))
    assert found == [torch.device("cuda:0"), torch.device("cuda:1")]


def test_read_and_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    values = (torch.tensor([3, 2**52 + 1]), torch.tensor(True), torch.tensor([[0.1]]), torch.tensor([]))
    assert read_values(*values) == [[3, 2**52 + 1], [True], [torch.tensor(0.1).item()], []]
    with simulated_device(monkeypatch) as waits:
        assert read_values(*to_device(values)) == read_values(*values)
        assert len(waits) == 1
        checks, called = DeferredChecks(), list[int]()
        for n, value in enumerate(to_device((torch.tensor(1.0), torch.tensor(0.0), torch.tensor(0.0)))):
            checks.add(value, bool, lambda n=n: called.append(n))
        assert (called, len(waits)) == ([], 1)
        checks.finish()
        checks.finish()
        assert (called, len(waits)) == ([1, 2], 2)
    checks.add(torch.tensor(0.0), bool, lambda: called.append(9))
    assert called[-1] == 9


NUMBERS: dict[str, list[Any]] = {
    "rows": [[1, -1], [2**40, 0]],
    "none": [],
    "bools": [True, False],
    "floats": [0.1, -2.5],
}


@pytest.mark.parametrize("kind", NUMBERS)
def test_numbers_that_a_graph_keeps(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are written without a copy of anything that the host may free."""
    with simulated_device(monkeypatch) as waits, dispatched() as counts:
        found = write_numbers(NUMBERS[kind], torch.device("meta"))
        assert not {"_to_copy", "copy_"} & counts.keys()
        assert waits == []
    assert_same_bits(to_cpu(found), torch.tensor(NUMBERS[kind]))
    assert_same_bits(upload(NUMBERS[kind], torch.device("cpu")), torch.tensor(NUMBERS[kind]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="only CUDA devices have graphs")
def test_numbers_of_a_cuda_graph_stay() -> None:
    device, graph = torch.device("cuda"), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = upload([1, 2, 3], device)
    others = [torch.tensor([9, 9, 9], device="cpu") for _ in range(100)]
    graph.replay()
    assert kept.tolist() == [1, 2, 3]
    assert len(others) == 100
