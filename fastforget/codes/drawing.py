"""Draw codes: seeded noise with the same bits on every machine and in every version of the libraries below.

The random words come from Philox 4x64-10, a counter-based generator with a frozen stream. Its key is the seed, the
class and the index of the code within the class, so that each code has a stream of its own. More classes or more codes
per class therefore leave the earlier ones as they were.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import numpy as np
import torch
from torch import Tensor

__all__ = ["DISTRIBUTIONS", "Distribution", "draw_code", "to_normal"]

Distribution: TypeAlias = Literal["normal", "uniform", "blocks", "tokens"]

DISTRIBUTIONS: tuple[str, ...] = get_args(Distribution)


def draw_code(
    distribution: str,
    shapes: Sequence[tuple[int, ...]],
    *,
    seed: int,
    cls: int,
    index: int,
    vocabulary: range = range(0),
) -> list[Tensor]:
    """Draw one mnemonic code.

    Args:
        distribution: "normal", "uniform", "blocks" or "tokens".
        shapes: Shape of every tensor of the model's input, without the batch dimension.
        seed: In [0, 2^64).
        cls: The class, in [0, 2^32).
        index: Which of the class's codes, in [0, 2^32).
        vocabulary: The numbers that tokens are drawn from, in [0, 2^31).

    Returns:
        A tensor per shape, float32 or, of tokens, int64. They are cut one after the other from one stream.
    """
    sizes = [math.prod(_cells(shape) if distribution == "blocks" else shape) for shape in shapes]
    words = torch.from_numpy(_random_words(sum(sizes), seed, cls, index))
    if distribution == "tokens":
        values = _to_tokens(words, vocabulary)
    else:
        values = to_normal(words) if distribution == "normal" else _to_uniform(words)
    parts = torch.split(values, sizes)
    if distribution == "blocks":
        return [_upsample(part, shape) for part, shape in zip(parts, shapes, strict=True)]
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def _random_words(count: int, seed: int, cls: int, index: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return `count` words of 52 random bits."""
    key = np.array([seed, cls << 32 | index], dtype=np.uint64)
    raw = np.random.Philox(key=key).random_raw(count)
    # The top bits: 52 of them fit int64, which PyTorch's operators know, and leave room for the half in `to_normal`.
    return np.asarray(raw >> np.uint64(12)).astype(np.int64)


def _to_uniform(words: Tensor) -> Tensor:
    """Make words U[0, 1), on the 2^24 multiples of 2^-24: every step is exact in float32."""
    return (words >> 28).to(torch.float32) * 2.0**-24


def to_normal(words: Tensor) -> Tensor:
    """Make words of 52 bits N(0, 1): the inverse distribution function in float64, rounded to float32 at the end."""
    # The middle of each of the 2^52 intervals: exact in float64, symmetric, and never 0 or 1.
    middles = (words.to(torch.float64) + 0.5) * 2.0**-52
    normal: Tensor = torch.special.ndtri(middles)
    return normal.to(torch.float32)


def _to_tokens(words: Tensor, vocabulary: range) -> Tensor:
    """Make words tokens of a vocabulary, even to one in 2^32, by 32 bits of each word in integers."""
    return vocabulary.start + vocabulary.step * ((words >> 20) * len(vocabulary) >> 32)


def _cells(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the cells along each dimension: as many as channels, and min(8, ceil(d / 2)) of a length d.

    So a block is at least two long, unless d is 1.
    """
    channels = 1 if len(shape) > 1 else 0
    return shape[:channels] + tuple(min(8, (d + 1) // 2) for d in shape[channels:])


def _upsample(values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Upsample by nearest neighbour from `_cells(shape)` to `shape`, in integers so that no rounding can differ."""
    cells = _cells(shape)
    grid = values.reshape(cells)
    for dim, (fine, coarse) in enumerate(zip(shape, cells, strict=True)):
        grid = grid.index_select(dim, torch.arange(fine, device=grid.device) * coarse // max(fine, 1))
    return grid
