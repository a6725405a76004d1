"""A short name for the exact contents of a model, to check that an edit meets the model it was made for."""

from __future__ import annotations

import hashlib
import json

from torch import Tensor, nn

from fastforget import ops
from fastforget.model import check_device, eager

__all__ = ["fingerprint"]


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
    tensors = _contents(eager(model))
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in tensors.items():
        check_device(f"`{name}`", tensor)
    if tensors:
        sums = ops.fingerprint([tensor.detach().contiguous() for tensor in tensors.values()]).tolist()
        for (name, tensor), (first, second) in zip(tensors.items(), sums, strict=True):
            entry = [name, str(tensor.dtype), list(tensor.shape), first % 2**64, second % 2**64]
            digest.update(json.dumps(entry).encode())
    return digest.hexdigest()


def _contents(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}
