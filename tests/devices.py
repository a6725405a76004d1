"""Run tests on another device than the CPU: FASTFORGET_TEST_DEVICE=cuda makes all their tensors there."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors


class MadeOn(TorchFunctionMode):
    """Makes tensors on a device. Random tensors are drawn on the CPU, where the generators of tests are, and moved."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in _device_constructors() or kwargs.get("device") is not None or kwargs.get("out") is not None:
            return func(*args, **kwargs)
        generator = kwargs.get("generator")
        on_cpu = generator is not None and generator.device.type == "cpu"
        if on_cpu or (func is torch.tensor and not kwargs.get("requires_grad")):
            drawn: Tensor = func(*args, **{**kwargs, "device": "cpu"})
            return drawn.to(self.device)
        return func(*args, **{**kwargs, "device": self.device})


def run_on(device: torch.device) -> None:
    """Make all later tensors on a device, and compute float32 in full precision."""
    torch.set_default_device(device)  # for code that asks get_default_device
    MadeOn(device).__enter__()
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.deterministic = True  # tests compare two runs to the bit


def run_where_asked() -> None:
    """Run on the device that FASTFORGET_TEST_DEVICE names.

    Raises:
        RuntimeError: There is no such device, or fastforget has no kernels for it.
    """
    name = os.environ.get("FASTFORGET_TEST_DEVICE", "cpu")
    if name == "cpu":
        return
    from fastforget import ops

    if torch.device(name).type != "cuda" or not ops.cuda_built():
        raise RuntimeError(
            f"FASTFORGET_TEST_DEVICE must be cpu, or cuda where there is a device and fastforget was built with "
            f"FASTFORGET_CUDA=1, got {name}"
        )
    run_on(torch.device(name))
