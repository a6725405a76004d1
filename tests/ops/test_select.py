"""select and select_mask against a stable sort."""

import math

import pytest
import torch
from asserts import assert_same_bits, assert_traceable, threads
from cases import randn
from torch import Tensor

from fastforget import ops, reference

SAMPLED = 1 << 16  # select looks at about this many elements first, at a fixed stride


def mixed(*sizes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [randn(*size, dtype=dtype, seed=seed) for seed, size in enumerate(sizes)]


def assert_selects(scores: list[Tensor], k: int) -> None:
    """Threshold, position and masks are the reference's, and the same for two threads."""
    before = [score.clone() for score in scores]
    threshold, cut = ops.select(scores, k)
    expected = reference.select(scores, k)
    assert threshold.dtype == scores[0].dtype
    assert_same_bits(threshold, expected[0])
    masks = ops.select_mask(scores, threshold, cut)
    assert sum(int(mask.sum()) for mask in masks) == k
    for mask, wanted in zip(masks, reference.select_mask(scores, *expected), strict=True):
        assert_same_bits(mask, wanted)
    with threads(2):
        again = ops.select(scores, k)
        for a, b in zip((*again, *ops.select_mask(scores, *again)), (threshold, cut, *masks), strict=True):
            assert_same_bits(a, b)
    for score, old in zip(scores, before, strict=True):
        assert_same_bits(score, old)


def counts(total: int) -> list[int]:
    return sorted({1, total // 100 + 1, total // 3 + 1, total})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "sizes",
    [
        [(1,)],
        [()],
        [(2,), (1,)],
        [(7, 9), (3,), (2, 2, 5)],
        [(0,), (300,), (0, 4), (257,)],
        [(65536,), (65537,), (3,)],
        [(400, 401), (1,), (211, 3)],
    ],
    ids=str,
)
def test_equals_a_stable_sort(sizes: list[tuple[int, ...]], dtype: torch.dtype) -> None:
    scores = mixed(*sizes, dtype=dtype)
    for k in counts(sum(score.numel() for score in scores)):
        assert_selects(scores, k)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [50, 100_000])
def test_ties_go_by_tensor_and_element(size: int, dtype: torch.dtype) -> None:
    scores = [(score * 2).round() for score in mixed((size,), (3, size // 6), dtype=dtype)]
    for k in counts(sum(score.numel() for score in scores)):
        assert_selects(scores, k)


@pytest.mark.parametrize("value", [0.0, -0.0, 1.5, -2.0, math.inf, -math.inf, 1e-45])
@pytest.mark.parametrize("size", [5, 90_000])
def test_all_equal(value: float, size: int) -> None:
    scores = [torch.full((size,), value), torch.full((size // 2, 2), value)]
    for k in counts(sum(score.numel() for score in scores)):
        assert_selects(scores, k)
        assert int(ops.select(scores, k)[1]) == k


@pytest.mark.parametrize("k", [1, 39_999, 40_000, 40_001, 60_000, 100_000])
def test_mostly_zeros(k: int) -> None:
    scores = mixed((70_000,), (30_000,))
    for score in scores:
        score.abs_().add_(1e-3)
        score[torch.rand(score.shape, generator=torch.Generator().manual_seed(3)) < 0.6] = 0
    assert_selects(scores, k)


def test_negative_zero_equals_zero() -> None:
    scores = [torch.tensor([0.0, -0.0, -1.0, 0.0]), torch.tensor([-0.0, 1.0])]
    for k in range(1, 7):
        assert_selects(scores, k)
    assert [m.tolist() for m in ops.select_mask(scores, *ops.select(scores, 3))] == [
        [True, True, False, False],
        [False, True],
    ]


@pytest.mark.parametrize("k", [1, 2, 3, 500, 997, 999, 1000])
def test_infinities(k: int) -> None:
    scores = mixed((400,), (600,))
    scores[0][7] = scores[1][3] = math.inf
    scores[0][9] = scores[1][8] = scores[1][9] = -math.inf
    assert_selects(scores, k)


def test_negative_and_denormal_scores() -> None:
    for scale in (-1.0, 1e-42, -1e-42, 1e38):
        scores = [score.abs() * scale for score in mixed((5000,), (333,))]
        for k in (1, 2600, 5333):
            assert_selects(scores, k)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("stride", [2, 4])
@pytest.mark.parametrize("sampled", [-5.0, 5.0, 0.5])
def test_data_with_the_period_of_the_sample(sampled: float, stride: int, dtype: torch.dtype) -> None:
    """Every element the first look sees is the same and misleads it, so the threshold comes from counting digits."""
    flat = torch.rand(stride * SAMPLED, generator=torch.Generator().manual_seed(1), dtype=dtype)
    flat[::stride] = sampled
    scores = [flat[:100_000].clone(), flat[100_000:].clone()]
    for k in (1, len(flat) // 10, len(flat) // 2):
        assert_selects(scores, k)


@pytest.mark.parametrize("order", ["ascending", "descending"])
def test_sorted_data(order: str) -> None:
    scores = list(torch.linspace(-3, 5, 300_001).split(120_000))
    scores = [score.flip(0) for score in scores[::-1]] if order == "descending" else scores
    for k in (1, 1000, 150_000, 300_001):
        assert_selects(scores, k)


def test_double_scores_that_are_equal_as_floats() -> None:
    scores = [1 + torch.arange(1000, dtype=torch.float64).flip(0) * 2.0**-52]
    for k in (1, 500, 1000):
        assert_selects(scores, k)


def test_opcheck_and_compile() -> None:
    scores = mixed((7, 9), (3,))
    assert_traceable("select", scores, 20)
    assert_traceable("select_mask", scores, *ops.select(scores, 20))


BAD = {
    "no elements": ([torch.zeros(0)], 1, r"`k` must lie in \[1, 0\], got 1"),
    "k zero": ([torch.zeros(3), torch.zeros(2)], 0, r"`k` must lie in \[1, 5\], got 0"),
    "k too large": ([torch.zeros(3), torch.zeros(2)], 6, r"`k` must lie in \[1, 5\], got 6"),
    "half": ([torch.zeros(3).half()], 1, "`scores` must be float32 or float64, got Half"),
    "int": ([torch.zeros(3).int()], 1, "`scores` must be float32, float64, bfloat16 or float16, got Int"),
    "mixed": ([torch.zeros(3), torch.zeros(3).double()], 1, "`scores` must be Float, got Double"),
    "strides": ([torch.zeros(3, 4).t()], 1, "`scores` must be contiguous"),
    "nan": ([torch.tensor([1.0, math.nan, 2.0, math.nan])], 1, "`scores` must not be NaN, got 2 NaN elements"),
}


@pytest.mark.parametrize("fault", BAD)
def test_bad_arguments(fault: str) -> None:
    scores, k, text = BAD[fault]
    with pytest.raises(RuntimeError, match=text):
        ops.select(scores, k)


def test_nothing_to_select_from() -> None:
    with pytest.raises(ValueError, match="`scores` must not be empty"):
        ops.select([], 1)


@pytest.mark.parametrize("at", [0, 1, 255, 199_999])
def test_one_nan_anywhere_is_found(at: int) -> None:
    (scores,) = mixed((200_000,))
    scores[at] = math.nan
    with pytest.raises(RuntimeError, match="`scores` must not be NaN, got 1 NaN elements"):
        ops.select([scores], 1000)


@pytest.mark.parametrize(
    ("threshold", "cut", "text"),
    [
        (torch.zeros(1), torch.tensor(1), r"`threshold` must be 0-D, got shape \(1,\)"),
        (torch.tensor(1.0).double(), torch.tensor(1), "`threshold` must have the dtype of `scores`"),
        (torch.tensor(1.0), torch.ones(1, dtype=torch.int64), "`cut` must be 0-D"),
        (torch.tensor(1.0), torch.tensor(1.0), "`cut` must be Long, got Float"),
    ],
)
def test_bad_mask_arguments(threshold: Tensor, cut: Tensor, text: str) -> None:
    with pytest.raises(RuntimeError, match=text):
        ops.select_mask([torch.zeros(3)], threshold, cut)
