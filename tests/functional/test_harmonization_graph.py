"""`harmonize` in a CUDA graph: what it sends to the device is right at every replay."""

import pytest
import torch
from asserts import assert_same_bits
from cases import randn

from fastforget import harmonize

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


@pytest.mark.parametrize("project", ["forget", "both"])
def test_in_a_graph(project: str) -> None:
    device = torch.device("cuda")
    tasks = [[randn(3, 4, seed=k).to(device), randn(5, seed=k + 9).to(device)] for k in range(3)]

    def run() -> list[torch.Tensor]:
        return harmonize(*tasks, project=project)

    run()  # libraries make their plans
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        found = run()
    for seed in (20, 30):
        for task, gradients in enumerate(tasks):
            for gradient in gradients:
                gradient.copy_(randn(*gradient.shape, seed=seed + task))
        kept = [torch.full((1000,), 7, dtype=torch.int64, pin_memory=True) for _ in range(16)]  # takes freed memory
        graph.replay()
        for one, expected in zip(found, run(), strict=True):
            assert_same_bits(one, expected)
        del kept
