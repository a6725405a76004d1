"""The image data sets of the quality tables, beside the demo's."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from fastforget.demo.data import Dataset, load_digits, load_fashion_mnist


@lru_cache(maxsize=1)
def fashion_mnist() -> Dataset:
    return load_fashion_mnist()


@lru_cache(maxsize=1)
def fashion_and_digits(each: int = 2000) -> Dataset:
    """Return twenty classes: 2,000 images of each class of Fashion-MNIST, and the enlarged digits, each ten times."""
    fashion, digits = fashion_mnist(), load_digits(0)
    rows = torch.cat([(fashion.y_train == cls).nonzero().squeeze(1)[:each] for cls in range(10)])
    x_digits, x_test = (torch.nn.functional.interpolate(x, 28) for x in (digits.x_train, digits.x_test))
    return Dataset(
        "Fashion-MNIST and digits",
        (*fashion.class_names, *digits.class_names),
        torch.cat([fashion.x_train[rows], x_digits.repeat(10, 1, 1, 1)]),
        torch.cat([fashion.y_train[rows], digits.y_train.repeat(10) + 10]),
        torch.cat([fashion.x_test, x_test]),
        torch.cat([fashion.y_test, digits.y_test + 10]),
    )


@lru_cache(maxsize=1)
def pairs(total: int, samples: int = 40_000) -> Dataset:
    """Return pairs of a garment and a digit, 14x28 pixels, in 10, 40 or 200 classes.

    With 10 classes, the garment alone makes the class. With 40, four digits count, too. With 200, ten digits count, and
    whether the image is negative.
    """
    fashion, digits = fashion_mnist(), load_digits(0)
    names = tuple(
        f"{garment} {digit}{sign}"
        for sign in (("", " negative") if total > 100 else ("",))
        for digit in range(total // 10 if total <= 100 else 10)
        for garment in fashion.class_names
    )
    parts = []
    for seed, (count, x, y, x_digit, y_digit) in enumerate(
        (
            (samples, fashion.x_train, fashion.y_train, digits.x_train, digits.y_train),
            (len(fashion.y_test), fashion.x_test, fashion.y_test, digits.x_test, digits.y_test),
        )
    ):
        generator = torch.Generator().manual_seed(seed)
        kinds = min(len(names) // 10, 10)
        known = (y_digit < kinds).nonzero().squeeze(1) if kinds > 1 else torch.arange(len(y_digit))
        chosen_digits = known[torch.randint(len(known), (count,), generator=generator)]
        left = torch.nn.functional.avg_pool2d(x[:count], 2)
        right = torch.nn.functional.interpolate(x_digit[chosen_digits], 14)
        images, labels = torch.cat([left, right], 3), y[:count] + (10 * y_digit[chosen_digits] if kinds > 1 else 0)
        if total > 100:
            negative = torch.randint(2, (count,), generator=generator)
            images, labels = images * (1 - 2 * negative).view(-1, 1, 1, 1), labels + 100 * negative
        parts.append((images, labels))
    (x_train, y_train), (x_test, y_test) = parts
    return Dataset(f"pairs, {total} classes", names, x_train, y_train, x_test, y_test)


@lru_cache(maxsize=1)
def cifar10(folder: Path | None) -> Dataset:
    """Read CIFAR-10 from the files ``{train,test}/<class>/*.jpg``, and scale it by the statistics of each channel."""
    if folder is None or not (folder / "train").is_dir():
        raise FileNotFoundError(f"no train/ in {folder}: give the folder of CIFAR-10 as image files with --data")
    names = tuple(sorted(path.name for path in (folder / "train").iterdir()))
    parts = []
    for part in ("train", "test"):
        files = [(file, label) for label, name in enumerate(names) for file in sorted((folder / part / name).iterdir())]
        progress = tqdm(files, desc=f"reading {part}", disable=None, leave=False)
        images = np.stack([np.asarray(Image.open(file).convert("RGB")) for file, _ in progress])
        parts.append((torch.from_numpy(images).permute(0, 3, 1, 2), torch.tensor([label for _, label in files])))
    (x_train, y_train), (x_test, y_test) = parts
    mean = x_train.double().mean((0, 2, 3), keepdim=True).float()
    deviation = (x_train.float() - mean).square().mean((0, 2, 3), keepdim=True).sqrt()
    x_train, x_test = ((images.float() - mean) / deviation for images in (x_train, x_test))
    return Dataset("CIFAR-10 (JPEG)", names, x_train, y_train, x_test, y_test)
