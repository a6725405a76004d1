"""Devices: which have kernels, and how the host exchanges numbers with one while waiting as seldom as possible."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastforget import ops

__all__ = ["DeferredChecks", "check_device", "filled", "has_kernels", "random_devices", "read_values", "upload"]


def read_values(*tensors: Tensor) -> list[list[float]]:
    """Return the values of small tensors on one device, after waiting once; exact for integers below 2**53."""
    if tensors[0].is_cpu:
        return [tensor.detach().reshape(-1).tolist() for tensor in tensors]
    values = torch.cat([tensor.detach().reshape(-1).double() for tensor in tensors]).tolist()
    ends = torch.tensor([tensor.numel() for tensor in tensors], device="cpu").cumsum(0).tolist()
    return [values[end - tensor.numel() : end] for tensor, end in zip(tensors, ends, strict=True)]


def upload(values: Sequence[Any], device: torch.device) -> Tensor:
    """Return numbers as a tensor on a device, without making the host wait for it."""
    on_host = torch.tensor(values, device="cpu")
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        return filled(on_host, device)
    return on_host.to(device, non_blocking=True)


def filled(on_host: Tensor, device: torch.device) -> Tensor:
    """Return a copy of few numbers that is made by filling, number by number.

    A CUDA graph reads the host's memory again at every replay, when it may be gone. What is filled in is kept in the
    graph itself.
    """
    made = torch.empty_like(on_host, device=device)
    for place, number in zip(made.view(-1), on_host.view(-1).tolist(), strict=True):
        place.fill_(number)
    return made


def random_devices(*tensors: Tensor) -> list[torch.device]:
    """Return the CUDA devices of tensors, each once: a model may draw from their generators beside the CPU's."""
    return sorted({t.device for t in tensors if t.device.type == "cuda"}, key=str)


class DeferredChecks:
    """Conditions on values that only their device knows.

    On the CPU each is checked at once. To read a value from another device, the host must wait. So these values are
    kept, and `finish` reads them together, before a result leaves the library or a model is written to.
    """

    def __init__(self) -> None:
        """Start with none."""
        self._open: list[tuple[Tensor, Callable[[float], bool], Callable[[], None]]] = []

    def add(self, value: Tensor, good: Callable[[float], bool], complain: Callable[[], None]) -> None:
        """Check a value, now or later.

        Args:
            value: One number or bool.
            good: Whether a value is good.
            complain: Called if it is not; looks closer and raises.
        """
        if not value.is_cpu:
            self._open.append((value, good, complain))
        elif not good(value.item()):
            complain()

    def finish(self) -> None:
        """Read the values that were kept; the first bad one complains."""
        kept, self._open = self._open, []
        if not kept:
            return
        numbers = read_values(*(value for value, _, _ in kept))
        for (number,), (_, good, complain) in zip(numbers, kept, strict=True):
            if not good(number):
                complain()


def has_kernels(tensor: Tensor) -> bool:
    """Return whether this build has kernels for a tensor's device."""
    kind = tensor.device.type
    return kind == "cpu" or (kind == "cuda" and ops.cuda_built())


def check_device(what: str, tensor: Tensor) -> None:
    """Raise NotImplementedError if this build has no kernels for a tensor's device."""
    if has_kernels(tensor):
        return
    if tensor.device.type == "cuda":
        raise NotImplementedError(
            f"{what} is on {tensor.device}; this build of fastforget has no CUDA kernels: build it with "
            "FASTFORGET_CUDA=1, see README"
        )
    kinds = "the CPU and CUDA devices" if ops.cuda_built() else "the CPU"
    raise NotImplementedError(f"{what} is on {tensor.device}; this build of fastforget has kernels for {kinds} only")
