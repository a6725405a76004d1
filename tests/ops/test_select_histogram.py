"""select_histogram against bit arithmetic, and against the order of floats."""

import math

import pytest
import torch
from asserts import assert_same_bits, assert_traceable, threads
from cases import DTYPES, randn
from torch import Tensor

from fastforget import ops
from fastforget.ops import reference


def bits(dtype: torch.dtype) -> int:
    return 64 if dtype == torch.float64 else 32


def drawn(*sizes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Scores with ties, zeros of both signs and infinities among them."""
    scores = [(randn(*size, seed=seed) * 4).round().div(4).to(dtype) for seed, size in enumerate(sizes)]
    for score in scores:
        score.view(-1)[1:4] = torch.tensor([-0.0, math.inf, -math.inf][: score.view(-1)[1:4].numel()])
    return scores


def descend(scores: list[Tensor], rank: int, digit: int) -> tuple[int, int, int]:
    """The key of the rank-th largest, and how many keys of all are larger, and equal."""
    prefix, left, above, counts = 0, bits(scores[0].dtype), 0, torch.empty(0)
    while left > 0:
        shift = max(left - digit, 0)
        found = ops.select_histogram(scores, prefix, left, shift)
        assert_same_bits(found, reference.select_histogram(scores, prefix, left, shift))
        with threads(2):
            assert_same_bits(ops.select_histogram(scores, prefix, left, shift), found)
        counts = found.sum(0)
        value = len(counts) - 1
        while rank > counts[value]:
            rank -= int(counts[value])
            above += int(counts[value])
            value -= 1
        prefix, left = prefix << (left - shift) | value, shift
    return prefix, above, int(counts[prefix & len(counts) - 1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("digit", [11, 3])
@pytest.mark.parametrize("sizes", [[(1,)], [(7, 9), (0,), (2, 2, 5)], [(65_537,), (3,), (40_001,)]], ids=str)
def test_descends_to_the_ranks_of_a_sort(sizes: list[tuple[int, ...]], digit: int, dtype: torch.dtype) -> None:
    scores = drawn(*sizes, dtype=dtype)
    flat = torch.cat([score.flatten() for score in scores])
    for rank in sorted({1, len(flat) // 3 + 1, len(flat)}):
        _, above, equal = descend(scores, rank, digit)
        threshold = flat.sort(descending=True).values[rank - 1]
        assert above == int((flat > threshold).sum())
        assert equal == int((flat == threshold).sum())


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_are_of_tensors(dtype: torch.dtype) -> None:
    """More tensors than fit into one launch on a device, and few of them aligned."""
    sizes = [i * 37 % 301 for i in range(150)]
    scores = list(randn(sum(sizes), dtype=dtype).split(sizes))
    counts = ops.select_histogram(scores, 0, bits(dtype), bits(dtype) - 11)
    assert_same_bits(counts, reference.select_histogram(scores, 0, bits(dtype), bits(dtype) - 11))
    assert counts.sum(1).tolist() == sizes


@pytest.mark.parametrize("dtype", DTYPES)
def test_keys_sort_like_floats(dtype: torch.dtype) -> None:
    values = torch.tensor([-math.inf, -3.0, -1e-7, 0.0, 1e-7, 2.0, math.inf], dtype=dtype)
    keys = [descend([value], 1, 11)[0] for value in values]
    assert keys == sorted(set(keys))
    assert descend([torch.tensor(-0.0, dtype=dtype)], 1, 11) == descend([torch.tensor(0.0, dtype=dtype)], 1, 11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nan_is_beyond_the_infinities(dtype: torch.dtype) -> None:
    for nan, infinity in ((math.nan, math.inf), (-math.nan, -math.inf)):
        score = torch.tensor([infinity, math.copysign(nan, infinity)], dtype=dtype)
        high = [descend([value], 1, 11)[0] for value in score]
        assert (high[1] > high[0]) == (infinity > 0)


def test_opcheck_and_compile() -> None:
    assert_traceable("select_histogram", drawn((7, 9), (3,)), 3, 30, 20)


BAD = {
    "int": ([torch.zeros(3).int()], 0, 32, 21, "`scores` must be float32, float64, bfloat16 or float16, got Int"),
    "strides": ([torch.zeros(3, 4).t()], 0, 32, 21, "`scores` must be contiguous"),
    "left": ([torch.zeros(3)], 0, 33, 22, r"`left` must lie in \[1, 32\], got 33"),
    "left of halves": ([torch.zeros(3).half()], 0, 64, 53, r"`left` must lie in \[1, 32\], got 64"),
    "no digit": ([torch.zeros(3)], 0, 32, 32, r"`shift` must lie in \[21, 31\], got 32"),
    "long digit": ([torch.zeros(3).double()], 0, 64, 52, r"`shift` must lie in \[53, 63\], got 52"),
    "below zero": ([torch.zeros(3)], 0, 5, -1, r"`shift` must lie in \[0, 4\], got -1"),
    "prefix": ([torch.zeros(3)], 8, 29, 20, "`prefix` must have 3 bits, got 8"),
    "negative prefix": ([torch.zeros(3)], -1, 29, 20, "`prefix` must have 3 bits, got -1"),
    "no prefix yet": ([torch.zeros(3)], 1, 32, 21, "`prefix` must have 0 bits, got 1"),
}


@pytest.mark.parametrize("fault", BAD)
def test_bad_arguments(fault: str) -> None:
    scores, prefix, left, shift, text = BAD[fault]
    with pytest.raises(RuntimeError, match=text):
        ops.select_histogram(scores, prefix, left, shift)


def test_no_tensors() -> None:
    with pytest.raises(ValueError, match="`scores` must not be empty"):
        ops.select_histogram([], 0, 32, 21)
