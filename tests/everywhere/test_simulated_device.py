"""The simulated device finds mixed devices and every wait of the host."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import randn
from simulated_device import simulated_device, to_device

from fastforget import ops
from fastforget.classifier.devices import upload


def test_operators_with_tensors_of_two_devices_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    grad, x = to_device((randn(2, 1, 3), randn(2, 1, 3)))
    with (
        simulated_device(monkeypatch),
        pytest.raises(AssertionError, match=r"fisher_linear.* got tensors of two devices"),
    ):
        ops.fisher_linear(grad, x, torch.ones(1, 2), to_device(torch.zeros(1, 3, 3)))
    with simulated_device(monkeypatch), pytest.raises(AssertionError, match=r"add.* got tensors of two devices"):
        _ = x + torch.ones(2, 1, 3)


def test_waits_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    x = to_device(randn(4))
    waiting: dict[str, Callable[[], Any]] = {
        "_local_scalar_dense": lambda: float(x[0]),
        "index": lambda: x[x > 0],
        "masked_select": lambda: x.masked_select(x > 0),
        "nonzero": x.nonzero,
        "equal": lambda: torch.equal(x, x),
        "_unique2": x.unique,
        "_to_copy": lambda: torch.ones(3).to("meta"),
    }
    with simulated_device(monkeypatch) as waits:
        for name, wait in waiting.items():
            del waits[:]
            wait()
            assert [found.split()[0] for found in waits] == [name]
        del waits[:]
        upload([1, 2], x.device)
        _ = x + 1, x.sum(), x[1:], torch.ones(3, device="meta")
        assert waits == []
