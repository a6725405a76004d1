"""A short name for the exact contents of a model, to check that an edit meets the model it was made for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from torch import Tensor, nn

from fastforget import ops
from fastforget.classifier.compilation import eager
from fastforget.classifier.devices import check_device
from fastforget.classifier.offloading import offloaded_values

__all__ = ["fingerprint", "fingerprint_of"]


def fingerprint(model: nn.Module) -> str:
    """Return 32 hexadecimal digits that depend on every bit of every parameter and buffer, and on their names.

    Two models with the same fingerprint hold the same values, accidents considered; it is not a defence
    against somebody who constructs a collision. The speed is that of reading the parameters once.

    Args:
        model: Any module, in any mode.

    Returns:
        The fingerprint; the same on every machine, and for any number of threads.

    Raises:
        TypeError: Not an eager module.
        NotImplementedError: A parameter or buffer is on a device without kernels.

    Example:
        >>> model = nn.Linear(2, 2)
        >>> before = fingerprint(model)
        >>> _ = nn.init.zeros_(model.weight)
        >>> fingerprint(model) == before
        False
    """
    return fingerprint_of(_contents(eager(model)))


def fingerprint_of(tensors: Mapping[str, Tensor]) -> str:
    """Return 32 hexadecimal digits that depend on every bit of tensors, on their names, and on their order.

    Args:
        tensors: By name.

    Returns:
        The fingerprint, see `fingerprint`.

    Raises:
        NotImplementedError: One is on a device without kernels.
    """
    for name, tensor in tensors.items():
        check_device(f"`{name}`", tensor)
    sums: dict[str, list[int]] = {}
    for device in {tensor.device: None for tensor in tensors.values()}:  # in order
        there = {name: tensor.detach().contiguous() for name, tensor in tensors.items() if tensor.device == device}
        sums.update(zip(there, ops.fingerprint(list(there.values())).tolist(), strict=True))
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in tensors.items():
        entry = [name, str(tensor.dtype), list(tensor.shape), *(number % 2**64 for number in sums[name])]
        digest.update(json.dumps(entry).encode())
    return digest.hexdigest()


def _contents(model: nn.Module) -> dict[str, Tensor]:
    """Return all parameters and buffers; also those that hooks keep elsewhere."""
    contents: dict[str, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    kept = offloaded_values(model)
    return {name: kept.get(name, tensor) for name, tensor in contents.items()}
