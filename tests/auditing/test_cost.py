"""`measure_cost` measures the time and memory of its block alone."""

import sys
import time

import pytest
import torch
from learners import FORGET, FRESH, REMAIN, batches, learner

from fastforget import audit, learn_to_unlearn
from fastforget.auditing import Cost, measure_cost


def test_time_inside_only() -> None:
    with measure_cost() as cost:
        time.sleep(0.05)
    time.sleep(0.2)
    assert 0.05 <= cost.seconds < 0.2
    assert cost.cpu_seconds < 0.04  # sleeping takes no CPU time


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak memory")
def test_memory_at_the_peak() -> None:
    """Memory counts that was freed in the block; memory from before does not."""
    kept = torch.ones(2**24)
    with measure_cost() as cost:
        torch.ones(2**25).sum().item()
        torch.ones(2**22)
    if cost.peak_bytes is None:
        pytest.skip("this system does not tell the peak memory")
    assert 2**27 - 2**22 <= cost.peak_bytes < 2**27 + 2**25  # the kernel counts pages in batches
    assert kept[0] == 1


def test_where_the_system_does_not_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["fastforget.auditing.cost"], "_start", lambda _: None)
    with measure_cost() as cost:
        pass
    assert cost.peak_bytes is None
    assert "peak memory" not in audit(learner(), FORGET, REMAIN, batches(FRESH), cost=cost).metrics


def test_the_audit_shows_it() -> None:
    model = learner()
    with measure_cost() as cost:
        receipt = learn_to_unlearn(model, FORGET, REMAIN, steps=3)
    cost.phases = receipt.seconds
    report = audit(model, FORGET, REMAIN, batches(FRESH), relearning_steps=0, cost=cost)
    assert report.metrics["time"].value == cost.seconds
    assert report.metrics["CPU time"].value == cost.cpu_seconds
    assert next(iter(report.seconds)) == "method: total"
    assert report.seconds["method: total"] == receipt.seconds["total"]
    assert "CPU time" in str(report)
    plain = audit(model, FORGET, REMAIN, batches(FRESH), relearning_steps=0, cost=Cost(seconds=2.0))
    assert plain.seconds["method: all"] == 2.0
    with pytest.raises(TypeError, match=r"^`cost` must be of `measure_cost`, got float$"):
        audit(model, FORGET, REMAIN, batches(FRESH), cost=1.0)  # type: ignore[arg-type]
