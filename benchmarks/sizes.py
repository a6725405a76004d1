"""The sizes of lists of tensors that are timed, and a small one that only shows that a benchmark runs."""

from __future__ import annotations

from typing import Any

import pytest
from networks import resnet18_cifar

__all__ = ["PARAMETERS", "SIZES"]


def resnet18() -> list[tuple[int, ...]]:
    """Return the shapes of 11.2M parameters in 62 tensors."""
    return [tuple(parameter.shape) for parameter in resnet18_cifar().parameters()]


def vit_b16() -> list[tuple[int, ...]]:
    """Return the shapes of the 152 parameters of ViT-B/16 for 224x224 images, 86.6M elements."""
    d = 768
    norm, square = [(d,), (d,)], [(d, d), (d,)]
    block = [*norm, (3 * d, d), (3 * d,), *square, *norm, (4 * d, d), (4 * d,), (d, 4 * d), (d,)]
    return [(1, 1, d), (1, 197, d), (d, 3, 16, 16), (d,), *(12 * block), *norm, (1000, d), (1000,)]


def small() -> list[tuple[int, ...]]:
    """Return the shapes of the first 76,000 parameters of the ResNet."""
    return resnet18()[:7]


SIZES = {"0.1M": small, "11M": resnet18, "86M": vit_b16}
PARAMETERS: list[Any] = [pytest.param("0.1M", marks=pytest.mark.smoke)]
PARAMETERS += [pytest.param(name, marks=pytest.mark.slow) for name in ("11M", "86M")]
