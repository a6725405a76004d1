"""On another device, operators give the same bits, and the host waits once or never."""

import copy
from typing import Any

import pytest
import torch
from asserts import assert_same_bits
from cases import randn
from known_codes import convnet, model_with_codes
from simulated_device import simulated_device, to_cpu, to_device
from torch import Tensor

from fastforget import fingerprint, harmonize, topk_mask


@pytest.mark.parametrize("project", ["forget", "both", "none"])
@pytest.mark.parametrize("scope", ["global", "tensor"])
def test_harmonize_never_waits(project: Any, scope: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = [[randn(3, 4, seed=k), randn(5, seed=k + 9)] for k in range(3)]

    def run(tasks: list[list[Tensor]]) -> list[Tensor]:
        generator = torch.Generator().manual_seed(4)
        return harmonize(*tasks, project=project, scope=scope, generator=generator)

    with simulated_device(monkeypatch) as waits:
        found = run(to_device(tasks))
        assert waits == []
    for one, other in zip(found, run(tasks), strict=True):
        assert_same_bits(to_cpu(one), other)


def test_topk_mask_waits_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads the threshold, which is NaN if a score is."""
    scores = [randn(3, 4), randn(5, seed=1)]
    with simulated_device(monkeypatch) as waits:
        found = topk_mask(to_device(scores), 6)
        assert len(waits) == 1
    for one, other in zip(found, topk_mask(scores, 6), strict=True):
        assert_same_bits(to_cpu(one), other)


def test_a_fingerprint_is_the_same_on_any_device(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = model_with_codes(convnet)
    expected = fingerprint(model)
    with simulated_device(monkeypatch) as waits:
        assert fingerprint(to_device(copy.deepcopy(model))) == expected
        assert len(waits) == 1
        model[0] = to_device(model[0])  # the parts are on two devices
        assert fingerprint(model) == expected
