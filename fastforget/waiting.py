"""Few waits for a device: the host reads what it must know in one go, and hands over numbers without a wait."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["Checks", "constant", "random_devices", "read"]


def read(*tensors: Tensor) -> list[list[float]]:
    """Return the values of small tensors on one device, after a single wait for it; exact for integers below 2**53."""
    if tensors[0].is_cpu:
        return [tensor.detach().reshape(-1).tolist() for tensor in tensors]
    values = torch.cat([tensor.detach().reshape(-1).double() for tensor in tensors]).tolist()
    ends = torch.tensor([tensor.numel() for tensor in tensors], device="cpu").cumsum(0).tolist()
    return [values[end - tensor.numel() : end] for tensor, end in zip(tensors, ends, strict=True)]


def constant(values: Sequence[Any], device: torch.device) -> Tensor:
    """Return numbers of the host as a tensor on a device that does not wait for them."""
    return torch.tensor(values, device="cpu").to(device, non_blocking=True)


def random_devices(*tensors: Tensor) -> list[torch.device]:
    """Return the CUDA devices of tensors, each once: a model may draw from their generators beside the CPU's."""
    return sorted({t.device for t in tensors if t.device.type == "cuda"}, key=str)


class Checks:
    """Conditions on values that only their device knows.

    On the CPU each is checked at once. A device would have to be waited for each time: its values are kept, and read
    together by `settle`, before any result leaves the library or a model is written to.
    """

    def __init__(self) -> None:
        """Start with none."""
        self._open: list[tuple[Tensor, Callable[[float], bool], Callable[[], None]]] = []

    def add(self, value: Tensor, good: Callable[[float], bool], complain: Callable[[], None]) -> None:
        """Check a value, now or later.

        Args:
            value: One number or bool.
            good: Whether all is well with it.
            complain: Called if not; looks closer and raises.
        """
        if not value.is_cpu:
            self._open.append((value, good, complain))
        elif not good(value.item()):
            complain()

    def settle(self) -> None:
        """Read what is still open; the first that is not well complains first."""
        waiting, self._open = self._open, []
        if not waiting:
            return
        found = read(*(value for value, _, _ in waiting))
        for (number,), (_, good, complain) in zip(found, waiting, strict=True):
            if not good(number):
                complain()
