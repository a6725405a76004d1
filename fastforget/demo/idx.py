"""The idx format, in which Fashion-MNIST is stored."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

__all__ = ["read_idx"]


def read_idx(path: Path, dimensions: int) -> Tensor:
    """Read an idx file of bytes: a magic number, the sizes in big-endian order, the values.

    Args:
        path: The file; gzipped if its name ends in .gz.
        dimensions: The number of dimensions that the file must have.

    Returns:
        The values, uint8, in the shape of the file.

    Raises:
        ValueError: The file is damaged, or of another kind.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"`{path}` is not a complete gzip file ({error})") from error
    start = 4 + 4 * dimensions
    if content[:4] != bytes([0, 0, 8, dimensions]) or len(content) < start:
        raise ValueError(f"`{path}` is not an idx file of bytes in {dimensions} dimensions")
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    values = np.frombuffer(content, dtype=np.uint8, offset=start)
    if values.size != np.prod(shape, dtype=np.int64):
        raise ValueError(f"`{path}` must hold {shape} values, got {values.size} bytes")
    return torch.from_numpy(values.reshape(shape).copy())
