"""The demo's data sets: scikit-learn's digits, and Fashion-MNIST from files on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fastforget.demo.idx import read_idx

__all__ = ["DEBIAN_FOLDER", "Dataset", "load_digits", "load_fashion_mnist"]

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
    """Images and labels, split into a training and a test set.

    Attributes:
        name: The name, for titles.
        class_names: The names of the C classes.
        x_train: float32 [N, 1, height, width], with zero mean and unit variance.
        y_train: int64 [N].
        x_test: Like `x_train`, scaled by the mean and deviation of the training set.
        y_test: Like `y_train`.
    """

    name: str
    class_names: tuple[str, ...]
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor


def load_digits(seed: int = 0) -> Dataset:
    """Load the 1,797 digits of 8×8 pixels that come with scikit-learn.

    Args:
        seed: The seed of the split; three quarters are for training.

    Returns:
        The data.
    """
    from sklearn.datasets import load_digits as sklearn_digits  # noqa: PLC0415 (slow to import)

    digits = sklearn_digits()
    images, labels = torch.from_numpy(digits.images), torch.from_numpy(digits.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed), device="cpu")
    train, test = order.tensor_split([len(order) * 3 // 4])
    names = tuple(str(digit) for digit in range(10))
    return _scaled_dataset("digits", names, (images[train], labels[train]), (images[test], labels[test]))


def load_fashion_mnist(folder: Path | None = None) -> Dataset:
    """Load the 70,000 images of Fashion-MNIST, 28×28 pixels.

    Args:
        folder: The folder with the four idx files, gzipped or not; by default that of the Debian package.

    Returns:
        The data: 60,000 images for training and 10,000 for testing.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is not what its name says.
    """
    folder = DEBIAN_FOLDER if folder is None else folder
    parts = []
    for part in ("train", "t10k"):
        images = read_idx(_find_file(folder, f"{part}-images-idx3-ubyte"), dimensions=3)
        labels = read_idx(_find_file(folder, f"{part}-labels-idx1-ubyte"), dimensions=1)
        if len(images) != len(labels):
            raise ValueError(f"`{folder}` holds {len(images)} {part} images but {len(labels)} labels")
        if len(labels) == 0 or labels.max() >= len(FASHION_CLASSES):
            raise ValueError(f"`{folder}` must hold {part} labels in [0, {len(FASHION_CLASSES)})")
        parts.append((images, labels))
    return _scaled_dataset("Fashion-MNIST", FASHION_CLASSES, parts[0], parts[1])


def _find_file(folder: Path, name: str) -> Path:
    for path in (folder / f"{name}.gz", folder / name):
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"no {name}[.gz] in {folder}: run `apt-get install dataset-fashion-mnist` (Debian, Ubuntu), "
        "or give the folder that holds the four idx files (--folder DIR, or make demo FOLDER=DIR)"
    )


def _scaled_dataset(
    name: str, class_names: tuple[str, ...], train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]
) -> Dataset:
    """Scale by the statistics of the training set and add the channel dimension."""
    pixels = train[0].to(torch.float32)
    mean, deviation = pixels.mean(), pixels.std()
    x_train, x_test = ((images.to(torch.float32)[:, None] - mean) / deviation for images, _ in (train, test))
    return Dataset(name, class_names, x_train, train[1].long(), x_test, test[1].long())
