"""`one_shot(batch_size=...)` takes the memory of one micro-batch."""

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from class_forgetting.micro_batch_cases import request
from known_codes import CLASSES
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from fastforget import MnemonicCodes, one_shot


class Wide(nn.Module):
    """Holds 64 KiB per sample between two layers of a few parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.spread, self.head = nn.Conv1d(1, 16, 9, padding=4), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.spread(x[:, None].repeat_interleave(128, 2)))
        return self.head(hidden.view(len(x), 16, 8, -1).mean(3).max(2).values)


@cache
def wide(per_class: int) -> tuple[nn.Module, MnemonicCodes]:
    codes = MnemonicCodes.generate(CLASSES, (8,), per_class=1)
    codes = MnemonicCodes.from_tensors(codes.tensor.repeat(1, per_class, 1))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Wide().eval()
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    for _ in range(200):
        optimizer.zero_grad()
        F.cross_entropy(model(codes.inputs), codes.labels).backward()
        optimizer.step()
    optimizer.zero_grad()
    return model, codes


def peak(call: Callable[[], Any]) -> int:
    """The most that is allocated at a time for tensors during a call, beyond what is there before it, bytes."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        call()
    held = most = 0
    events = [e for e in found.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


@pytest.mark.parametrize("name", ["natural", "several classes", "paper", "kept, updated"])
def test_memory_is_that_of_one_micro_batch(name: str) -> None:
    """Four times the codes take what they and their logits take, and no activations."""

    def taken(per_class: int, batch_size: int | None) -> int:
        model, codes = wide(per_class)
        settings = request(name, model, codes) | {"rho": 0.5, "spill": 1e9}
        return peak(lambda: one_shot(copy.deepcopy(model), codes, **settings, batch_size=batch_size))

    of_sample = 16 * 8 * 128 * 4
    few, many = taken(4, 4), taken(16, 4)
    assert few < 12 * 4 * of_sample  # at most a dozen activations of four samples
    assert many - few < of_sample
    assert taken(16, None) > many + 48 * of_sample
