"""A device that is not there: tensors that say they are on it, hold their values on the CPU, and are watched.

They report the meta device, which PyTorch's autograd serves everywhere. `Far` runs every operation on the CPU, and

* fails where an operation gets tensors of the CPU beside its own, which a CUDA device would refuse too (one without
  dimensions counts as a number, but operators of this library take none);
* notes in ``waits`` each operation for which the host would wait for a CUDA device, with the line that asked for it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

DEVICE = torch.device("meta")
aten = torch.ops.aten
# What ends in a number, or in a tensor whose size depends on values.
WAITING = {
    "_local_scalar_dense", "equal", "is_nonzero", "nonzero", "masked_select", "_unique", "_unique2", "unique_dim",
    "unique_consecutive", "bincount", "nonzero_static", "histc",
}  # fmt: skip


class Far(Tensor):
    near: Tensor

    @staticmethod
    def __new__(cls, near: Tensor, requires_grad: bool = False) -> Far:  # noqa: PYI034
        made = torch.Tensor._make_wrapper_subclass(
            cls, near.size(), strides=near.stride(), storage_offset=near.storage_offset(), dtype=near.dtype,
            device=DEVICE, requires_grad=requires_grad,
        )  # fmt: skip
        made.near = near
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    def tolist(self) -> Any:  # PyTorch reads the memory itself, after a copy
        return self.to("cpu").tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


_waits: list[list[str]] = []


def _wait(func: Any) -> None:
    frame: Any = sys._getframe(2)
    while frame is not None and "/fastforget/" not in frame.f_code.co_filename:
        frame = frame.f_back
    line = "outside" if frame is None else f"{frame.f_code.co_filename.split('/fastforget/')[-1]}:{frame.f_lineno}"
    for waits in _waits:
        waits.append(f"{func.overloadpacket.__name__} {line}")


def _is_far(value: Any) -> bool:
    return isinstance(value, Far)


def _mixes(func: Any, tensors: list[Tensor]) -> bool:
    """Whether there are tensors of both devices where there must not be."""
    if not any(map(_is_far, tensors)):
        return False
    near = [t for t in tensors if not _is_far(t)]
    numbers = func.namespace != "fastforget"
    return any(not numbers or t.dim() > 0 for t in near)


def _waits_for(func: Any, args: Any, kwargs: Any, tensors: list[Tensor]) -> bool:
    name = func.overloadpacket.__name__
    if name in WAITING:
        return any(map(_is_far, tensors))
    if name in ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"):
        return any(t is not None and t.dtype in (torch.bool, torch.uint8) for t in args[1])
    if name == "repeat_interleave":
        return kwargs.get("output_size") is None
    return False


def _moves(func: Any, args: Any, kwargs: Any) -> bool | None:
    """Whether a copy from one device to the other waits; None if it is no such copy."""
    name, device = func.overloadpacket.__name__, kwargs.get("device")
    if name == "_to_copy" and device is not None and _is_far(args[0]) != (torch.device(device) == DEVICE):
        return _is_far(args[0]) or not kwargs.get("non_blocking", False)
    if name == "copy_" and _is_far(args[0]) != _is_far(args[1]):
        blocking = not (args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
        return args[1].dim() > 0 and (_is_far(args[1]) or blocking)
    return None


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    tensors = [value for value in pytree.tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
    moves = _moves(func, args, kwargs)
    assert moves is not None or not _mixes(func, tensors), f"{func} got tensors of two devices"
    if moves or (moves is None and _waits_for(func, args, kwargs, tensors)):
        _wait(func)
    plain_args, plain = pytree.tree_map(lambda t: t.near if _is_far(t) else t, (args, dict(kwargs)))
    device = kwargs.get("device")
    if device is not None:
        plain["device"] = "cpu"
    result = func(*plain_args, **plain)
    if not (any(map(_is_far, tensors)) if device is None else torch.device(device) == DEVICE):
        return result
    result = pytree.tree_map(lambda t: Far(t) if isinstance(t, Tensor) else t, result)
    if not any(map(_is_far, tensors)):
        return result
    return return_and_correct_aliasing(func, args, kwargs, result)


class _Creating(TorchDispatchMode):
    """For tensors that are made from nothing, on the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


@contextmanager
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """There is a device; yields the waits for it."""
    for module in ("fingerprint", "harmonization", "model", "selection"):
        monkeypatch.setattr(sys.modules[f"fastforget.{module}"], "check_device", lambda *_: None)
    _waits.append([])
    try:
        with _Creating():
            yield _waits[-1]
    finally:
        _waits.pop()


def far(value: Any) -> Any:
    """Tensors, or a module, on the device: copies."""
    if not isinstance(value, nn.Module):
        return pytree.tree_map_only(Tensor, lambda t: Far(t.detach().clone()), value)
    for module in value.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(Far(parameter.detach().clone()))
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = Far(buffer.detach().clone())
    return value


def near(value: Any) -> Any:
    """Back on the CPU."""
    return pytree.tree_map_only(Tensor, lambda t: t.near if _is_far(t) else t, value)
