"""What every benchmark records about the machine, and two threads at most so that runs compare."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch

import fastforget
from fastforget import ops


@pytest.fixture(params=[1, 2], ids=["1-thread", "2-threads"])
def threads(request: pytest.FixtureRequest) -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def timed(benchmark: Any, threads: int) -> Callable[..., Any]:
    """Time a function as one entry of a group; facts go beside the times."""

    def run(function: Callable[[], Any], group: str, rounds: int = 5, **facts: Any) -> Any:
        benchmark.group = f"{group} [{threads} thread{'s' if threads > 1 else ''}]"
        benchmark.extra_info.update(
            threads=threads,
            simd=ops.simd_level(),
            torch=torch.__version__,
            fastforget=fastforget.__version__,
            omp_wait_policy=os.environ.get("OMP_WAIT_POLICY", "unset"),
            **facts,
        )
        return benchmark.pedantic(function, rounds=rounds, warmup_rounds=1)

    return run
