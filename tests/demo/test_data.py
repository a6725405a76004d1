"""The demo loads its data sets, and refuses damaged files."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from fastforget.demo.data import DEBIAN_FOLDER, load_digits, load_fashion_mnist
from fastforget.demo.idx import read_idx


def idx(values: np.ndarray) -> bytes:
    return bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def write_fashion(folder: Path, *, train: int = 20, test: int = 10, labels: int = 10) -> None:
    random = np.random.default_rng(0)
    for part, count in (("train", train), ("t10k", test)):
        images = random.integers(256, size=(count, 28, 28), dtype=np.uint8)
        classes = (np.arange(count) % labels).astype(np.uint8)
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx(classes))


def test_digits_are_split_once_and_scaled_by_the_training_set() -> None:
    digits = load_digits()
    assert digits.x_train.shape == (1347, 1, 8, 8)
    assert digits.x_test.shape == (450, 1, 8, 8)
    assert digits.x_train.dtype == torch.float32
    assert digits.y_train.dtype == torch.int64
    assert abs(digits.x_train.mean()) < 1e-5
    assert abs(digits.x_train.std() - 1) < 1e-5
    assert digits.y_test.unique().tolist() == list(range(10))
    # no two digits are alike, so this shows that the sets are disjoint
    train = {row.numpy().tobytes() for row in digits.x_train}
    assert sum(row.numpy().tobytes() in train for row in digits.x_test) == 0


def test_the_split_follows_the_seed() -> None:
    assert torch.equal(load_digits(3).x_train, load_digits(3).x_train)
    assert not torch.equal(load_digits(3).y_train, load_digits(4).y_train)


def test_fashion_mnist_from_a_folder_gzipped_or_not(tmp_path: Path) -> None:
    write_fashion(tmp_path)
    fashion = load_fashion_mnist(tmp_path)
    assert fashion.x_train.shape == (20, 1, 28, 28)
    assert fashion.y_test.tolist() == list(range(10))
    assert abs(fashion.x_train.std() - 1) < 1e-5
    assert len(fashion.class_names) == 10


@pytest.mark.skipif(not DEBIAN_FOLDER.is_dir(), reason="the package dataset-fashion-mnist is not installed")
def test_fashion_mnist_from_the_debian_package() -> None:
    fashion = load_fashion_mnist()
    assert fashion.x_train.shape == (60000, 1, 28, 28)
    assert fashion.y_test.bincount().tolist() == [1000] * 10


def test_missing_files_name_both_remedies(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        load_fashion_mnist(tmp_path)
    assert str(caught.value) == (
        f"no train-images-idx3-ubyte[.gz] in {tmp_path}: run `apt-get install dataset-fashion-mnist` (Debian, Ubuntu), "
        "or give the folder that holds the four idx files (--folder DIR, or make demo FOLDER=DIR)"
    )


def test_labels_must_be_as_many_as_images(tmp_path: Path) -> None:
    write_fashion(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(np.zeros(9, np.uint8)))
    with pytest.raises(ValueError, match="holds 10 t10k images but 9 labels"):
        load_fashion_mnist(tmp_path)


@pytest.mark.parametrize(("train", "labels"), [(20, 11), (0, 1)])
def test_labels_must_be_known(train: int, labels: int, tmp_path: Path) -> None:
    write_fashion(tmp_path, train=train, labels=labels)
    with pytest.raises(ValueError, match=r"must hold train labels in \[0, 10\)"):
        load_fashion_mnist(tmp_path)


def test_read_idx(tmp_path: Path) -> None:
    values = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    (tmp_path / "plain").write_bytes(idx(values))
    (tmp_path / "small.gz").write_bytes(gzip.compress(idx(values)))
    for name in ("plain", "small.gz"):
        assert read_idx(tmp_path / name, 3).tolist() == values.tolist()


GOOD = idx(np.arange(6, dtype=np.uint8))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "is not an idx file of bytes in 1 dimensions"),
        (GOOD[:6], "is not an idx file of bytes in 1 dimensions"),
        (idx(np.zeros((2, 3), np.uint8)), "is not an idx file of bytes in 1 dimensions"),
        (b"\x00\x00\x0d\x01" + GOOD[4:], "is not an idx file of bytes in 1 dimensions"),
        (GOOD[:-1], r"must hold \(6,\) values, got 5 bytes"),
        (GOOD + b"x", r"must hold \(6,\) values, got 7 bytes"),
    ],
)
def test_damaged_idx_files(content: bytes, text: str, tmp_path: Path) -> None:
    for name, stored in (("plain", content), ("small.gz", gzip.compress(content))):
        (tmp_path / name).write_bytes(stored)
        with pytest.raises(ValueError, match=text) as caught:
            read_idx(tmp_path / name, 1)
        assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("stored", [b"not gzip", gzip.compress(GOOD)[:-9], gzip.compress(GOOD)[:12] + b"\xff" * 20])
def test_damaged_gzip_files(stored: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.gz").write_bytes(stored)
    with pytest.raises(ValueError, match=r"x\.gz` is not a complete gzip file"):
        read_idx(tmp_path / "x.gz", 1)
