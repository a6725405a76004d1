"""A simulated device: tensors report that they are on it, but hold their values on the CPU.

They report the meta device, because autograd supports it on every machine. Each operation on them runs on the CPU. It

* fails if an operation also gets tensors of the CPU, as a CUDA device would. A tensor without dimensions counts as a
  number, but not for operators of this library;
* records in ``waits`` each operation for which the host would wait for a CUDA device, with the line that called it.

`dispatched` counts the operations: each costs the host a few microseconds, and most are a launch.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

import fastforget

PACKAGE = f"{Path(fastforget.__file__).parent}/"
DEVICE = torch.device("meta")
aten = torch.ops.aten
# Operations that return a number, or a tensor whose size depends on values.
WAITING = {
    "_local_scalar_dense", "equal", "is_nonzero", "nonzero", "masked_select", "_unique", "_unique2", "unique_dim",
    "unique_consecutive", "bincount", "nonzero_static", "histc",
}  # fmt: skip


class SimulatedTensor(Tensor):
    near: Tensor

    @staticmethod
    def __new__(cls, near: Tensor, requires_grad: bool = False) -> SimulatedTensor:  # noqa: PYI034
        made = torch.Tensor._make_wrapper_subclass(
            cls, near.size(), strides=near.stride(), storage_offset=near.storage_offset(), dtype=near.dtype,
            device=DEVICE, requires_grad=requires_grad,
        )  # fmt: skip
        made.near = near
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    def tolist(self) -> Any:  # PyTorch would read the memory directly
        return self.to("cpu").tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


_waits: list[list[str]] = []
_counts: list[Counter[str]] = []


def _wait(func: Any) -> None:
    frame: Any = sys._getframe(2)
    while frame is not None and not frame.f_code.co_filename.startswith(PACKAGE):
        frame = frame.f_back
    line = "outside" if frame is None else f"{frame.f_code.co_filename.removeprefix(PACKAGE)}:{frame.f_lineno}"
    for waits in _waits:
        waits.append(f"{func.overloadpacket.__name__} {line}")


def _is_simulated(value: Any) -> bool:
    return isinstance(value, SimulatedTensor)


def _mixes(func: Any, tensors: list[Tensor]) -> bool:
    """Return whether an operation gets tensors of both devices and must not."""
    if not any(map(_is_simulated, tensors)):
        return False
    near = [t for t in tensors if not _is_simulated(t)]
    numbers = func.namespace != "fastforget"
    return any(not numbers or t.dim() > 0 for t in near)


def _waits_for(func: Any, args: Any, kwargs: Any, tensors: list[Tensor]) -> bool:
    name = func.overloadpacket.__name__
    if name in WAITING:
        return any(map(_is_simulated, tensors))
    if name in ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"):
        return any(t is not None and t.dtype in (torch.bool, torch.uint8) for t in args[1])
    if name == "repeat_interleave":
        return kwargs.get("output_size") is None
    return False


def _moves(func: Any, args: Any, kwargs: Any) -> bool | None:
    """Return whether a copy between the devices waits, or None if the operation is no such copy."""
    name, device = func.overloadpacket.__name__, kwargs.get("device")
    if name == "_to_copy" and device is not None and _is_simulated(args[0]) != (torch.device(device) == DEVICE):
        return _is_simulated(args[0]) or not kwargs.get("non_blocking", False)
    if name == "copy_" and _is_simulated(args[0]) != _is_simulated(args[1]):
        blocking = not (args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
        return args[1].dim() > 0 and (_is_simulated(args[1]) or blocking)
    return None


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    for count in _counts:
        count[func.overloadpacket.__name__] += 1
    tensors = [value for value in pytree.tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
    moves = _moves(func, args, kwargs)
    assert moves is not None or not _mixes(func, tensors), f"{func} got tensors of two devices"
    if moves or (moves is None and _waits_for(func, args, kwargs, tensors)):
        _wait(func)
    plain_args, plain = pytree.tree_map(lambda t: t.near if _is_simulated(t) else t, (args, dict(kwargs)))
    device = kwargs.get("device")
    if device is not None:
        plain["device"] = "cpu"
    result = func(*plain_args, **plain)
    if not (any(map(_is_simulated, tensors)) if device is None else torch.device(device) == DEVICE):
        return result
    result = pytree.tree_map(lambda t: SimulatedTensor(t) if isinstance(t, Tensor) else t, result)
    if not any(map(_is_simulated, tensors)):
        return result
    return return_and_correct_aliasing(func, args, kwargs, result)


class _Creating(TorchDispatchMode):
    """Runs operations that make tensors on the device without tensor arguments."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


@contextmanager
def simulated_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Simulate the device, and yield the waits for it."""
    for module in ("classifier.fingerprint", "functional.harmonization", "classifier.parameters", "functional.topk"):
        monkeypatch.setattr(sys.modules[f"fastforget.{module}"], "check_device", lambda *_: None)
    _waits.append([])
    try:
        with _Creating():
            yield _waits[-1]
    finally:
        _waits.pop()


@contextmanager
def dispatched() -> Iterator[Counter[str]]:
    """Count the operations on the simulated device, by name."""
    _counts.append(Counter())
    try:
        yield _counts[-1]
    finally:
        _counts.pop()


def to_device(value: Any) -> Any:
    """Return copies of tensors on the device, or move a module there."""
    if not isinstance(value, nn.Module):
        return pytree.tree_map_only(Tensor, lambda t: SimulatedTensor(t.detach().clone()), value)
    for module in value.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(SimulatedTensor(parameter.detach().clone()))
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = SimulatedTensor(buffer.detach().clone())
    return value


def to_cpu(value: Any) -> Any:
    """Return tensors on the CPU."""
    return pytree.tree_map_only(Tensor, lambda t: t.near if _is_simulated(t) else t, value)
