"""The demo's data: scikit-learn's digits, and Fashion-MNIST from files that are already on the machine."""

from __future__ import annotations

import gzip
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")

FASHION_CLASSES = (
    "T-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)


@dataclass(frozen=True)
class Dataset:
    """Images and labels, split for training and testing.

    Attributes:
        name: For titles.
        class_names: C names.
        x_train: float32 [N, 1, height, width], of zero mean and unit variance.
        y_train: int64 [N].
        x_test: Like `x_train`, scaled by the training set's mean and deviation.
        y_test: Like `y_train`.
    """

    name: str
    class_names: tuple[str, ...]
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor


def load_digits(seed: int = 0) -> Dataset:
    """Loads the 1,797 8×8 digits that come with scikit-learn.

    Args:
        seed: Of the split, three quarters for training.

    Returns:
        The data.
    """
    from sklearn.datasets import load_digits as sklearn_digits  # noqa: PLC0415 (slow to import, for one data set)

    digits = sklearn_digits()
    images, labels = torch.from_numpy(digits.images), torch.from_numpy(digits.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed), device="cpu")
    train, test = order.tensor_split([len(order) * 3 // 4])
    names = tuple(str(digit) for digit in range(10))
    return _dataset("digits", names, (images[train], labels[train]), (images[test], labels[test]))


def load_fashion_mnist(folder: Path | None = None) -> Dataset:
    """Loads the 70,000 28×28 images of Fashion-MNIST.

    Args:
        folder: With the four idx files, gzipped or not; the Debian package's folder by default.

    Returns:
        The data, in its own split of 60,000 and 10,000.

    Raises:
        FileNotFoundError: If a file is missing; the text names both remedies.
        ValueError: If a file is not what its name says.
    """
    where = DEBIAN_FOLDER if folder is None else folder
    parts = []
    for part in ("train", "t10k"):
        images = read_idx(_find(where, f"{part}-images-idx3-ubyte"), dimensions=3)
        labels = read_idx(_find(where, f"{part}-labels-idx1-ubyte"), dimensions=1)
        if len(images) != len(labels):
            raise ValueError(f"`{where}` holds {len(images)} {part} images but {len(labels)} labels")
        if len(labels) == 0 or labels.max() >= len(FASHION_CLASSES):
            raise ValueError(f"`{where}` must hold {part} labels in [0, {len(FASHION_CLASSES)})")
        parts.append((images, labels))
    return _dataset("Fashion-MNIST", FASHION_CLASSES, parts[0], parts[1])


def read_idx(path: Path, dimensions: int) -> Tensor:
    """Reads one idx file of bytes: a magic number, the sizes in big-endian order, the values.

    Args:
        path: The file; gzipped if its name ends in .gz.
        dimensions: How many the file must have.

    Returns:
        uint8, in the file's shape.

    Raises:
        ValueError: If the file is not exactly that.
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


def _find(folder: Path, name: str) -> Path:
    for path in (folder / f"{name}.gz", folder / name):
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"no {name}[.gz] in {folder}: run `apt-get install dataset-fashion-mnist` (Debian, Ubuntu), "
        "or give the folder that holds the four idx files (--folder DIR, or make demo FOLDER=DIR)"
    )


def _dataset(
    name: str, class_names: tuple[str, ...], train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]
) -> Dataset:
    """Scales by the training set's statistics and adds the channel dimension."""
    pixels = train[0].to(torch.float32)
    mean, deviation = pixels.mean(), pixels.std()
    x_train, x_test = ((images.to(torch.float32)[:, None] - mean) / deviation for images, _ in (train, test))
    return Dataset(name, class_names, x_train, train[1].long(), x_test, test[1].long())
