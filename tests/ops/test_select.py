"""select, select_mask and select_indices against a stable sort."""

import math

import pytest
import torch
from asserts import ON_DEVICE, assert_same_bits, assert_traceable, by_fault, reads_data, threads
from cases import DTYPES, randn
from torch import Tensor

from fastforget import ops
from fastforget.ops import reference


def mixed(*sizes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [randn(*size, dtype=dtype, seed=seed) for seed, size in enumerate(sizes)]


def assert_selects(scores: list[Tensor], k: int) -> None:
    """Mask, threshold and what is made of them are the reference's, and the same for two threads."""
    before = [score.clone() for score in scores]
    found, expected = ops.select(scores, k), reference.select(scores, k)
    masks, indices = ops.select_mask(found[0], scores), ops.select_indices(found[0], scores, k)
    assert sum(int(mask.sum()) for mask in masks) == k
    wanted = (*reference.select_mask(expected[0], scores), *reference.select_indices(expected[0], scores, k))
    for a, b in zip((*found, *masks, *indices), (*expected, *wanted), strict=True):
        assert_same_bits(a, b)
    with threads(2):
        again = ops.select(scores, k)
        results = (*again, *ops.select_mask(again[0], scores), *ops.select_indices(again[0], scores, k))
        for a, b in zip(results, (*found, *masks, *indices), strict=True):
            assert_same_bits(a, b)
    for score, old in zip(scores, before, strict=True):
        assert_same_bits(score, old)


def counts(total: int) -> list[int]:
    return sorted({1, total // 100 + 1, total // 3 + 1, total})


@pytest.mark.parametrize("dtype", DTYPES)
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
        [(64,), (63,), (65,), (16_384,), (16_385,)],
        [(3, 700, 100), (1,), (500_001,)],
    ],
    ids=str,
)
def test_equals_a_stable_sort(sizes: list[tuple[int, ...]], dtype: torch.dtype) -> None:
    scores = mixed(*sizes, dtype=dtype)
    for k in counts(sum(score.numel() for score in scores)):
        assert_selects(scores, k)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [50, 100_000, 700_000])
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


@pytest.mark.parametrize("k", [1, 39_999, 40_000, 40_001, 60_000, 100_000])
def test_mostly_zeros(k: int) -> None:
    scores = mixed((70_000,), (30_000,))
    for score in scores:
        score.abs_().add_(1e-3)
        score[torch.rand(score.shape, generator=torch.Generator().manual_seed(3)) < 0.6] = 0
    assert_selects(scores, k)


@pytest.mark.parametrize("dtype", DTYPES)
def test_many_tensors_at_odd_addresses(dtype: torch.dtype) -> None:
    """More than fit into one launch on a device, and few of them aligned."""
    sizes = [1 + i * 37 % 301 for i in range(150)]
    scores = list((randn(sum(sizes)) * 9).round().to(dtype).split(sizes))
    for k in counts(sum(sizes)):
        assert_selects(scores, k)


@pytest.mark.parametrize("k", [1000, 4_000_000])
def test_so_many_that_a_device_takes_longer_chunks(k: int) -> None:
    scores = [(randn(size) * 1e4).round() for size in (70_001, (1 << 23) + 5)]
    found, expected = ops.select(scores, k), reference.select(scores, k)
    for a, b in zip(found, expected, strict=True):
        assert_same_bits(a, b)


def test_negative_zero_equals_zero() -> None:
    scores = [torch.tensor([0.0, -0.0, -1.0, 0.0]), torch.tensor([-0.0, 1.0])]
    for k in range(1, 7):
        assert_selects(scores, k)
    assert [m.tolist() for m in ops.select_mask(ops.select(scores, 3)[0], scores)] == [
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


def looked_at(total: int, size: int) -> Tensor:
    """The elements that select looks at first, one in every stretch."""
    stride = total // size
    stretch = torch.arange(total // stride + 1)
    golden = 0x9E3779B97F4A7C15
    place = torch.tensor([((int(s) * golden % 2**64) >> 32) * stride >> 32 for s in stretch])
    return (stretch * stride + place)[stretch * stride + place < total]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sampled", [-5.0, 5.0, 0.5])
@pytest.mark.parametrize("total", [100_000, 600_000])
def test_data_that_misleads_the_sample(total: int, sampled: float, dtype: torch.dtype) -> None:
    """What the first look sees is not like the rest: the bracket misses, and the threshold comes from counting."""
    flat = torch.rand(total, generator=torch.Generator().manual_seed(1), dtype=dtype)
    flat[looked_at(total, 4096)] = sampled
    scores = [flat[:40_000].clone(), flat[40_000:].clone()]
    for k in (1, total // 10, total // 2):
        assert_selects(scores, k)


@pytest.mark.parametrize("moved", [0.0, 2.0])
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_a_sample_that_is_a_little_off(share: float, moved: float) -> None:
    """By four standard deviations: the first bracket misses, the second holds."""
    flat = torch.rand(100_000, generator=torch.Generator().manual_seed(1))
    seen = looked_at(len(flat), 4096)
    deviation = math.sqrt(4096 * share * (1 - share))
    other_side = seen[(flat[seen] < 1 - share) == (moved > 1)]
    flat[other_side[: int(4 * deviation)]] = moved
    assert_selects([flat], int(share * len(flat)))


def test_a_crowd_between_two_sampled_scores() -> None:
    """More lies inside the bracket than there is room for."""
    flat = 1 + torch.rand(500_000, generator=torch.Generator().manual_seed(1)) / 1000
    seen = looked_at(len(flat), 4096)
    flat[seen] = torch.where(torch.arange(len(seen)) % 2 == 0, 0.0, 3.0)
    for k in (248_000, 250_000, 250_001, 252_000):
        assert_selects([flat], k)


@pytest.mark.parametrize("share", [1e-5, 0.001, 0.01, 0.1, 0.5, 0.9])
def test_brackets_that_hold_and_some_that_miss(share: float) -> None:
    """A bracket of two standard deviations misses now and then; nothing of that may show."""
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        flat = (3 * torch.randn(600_000, generator=generator)).exp()
        k = max(1, int(share * len(flat)))
        mask, threshold = ops.select([flat], k)
        (found,) = ops.select_mask(mask, [flat])
        expected = torch.kthvalue(flat, len(flat) - k + 1).values
        assert_same_bits(threshold, expected)
        assert int(found.sum()) == k
        assert not bool(found[flat < expected].any())
        assert bool(found[flat > expected].all())


@pytest.mark.parametrize("period", [2, 64, 512, 4096])
def test_periodic_data(period: int) -> None:
    scores = [(torch.arange(700_000) % period).float(), torch.full((9,), 1.5)]
    for k in (1, 7000, 350_000):
        assert_selects(scores, k)


@pytest.mark.parametrize("values", [(0.0, 1.0), (-0.0, 1e-45), (-math.inf, math.inf)])
@pytest.mark.parametrize("share", [0.001, 0.5])
def test_two_values(values: tuple[float, float], share: float) -> None:
    high = torch.rand(600_001, generator=torch.Generator().manual_seed(2)) < share
    scores = list(torch.where(high, values[1], values[0]).split([100_000, 0, 500_001]))
    for k in (1, 600, int(high.sum()), int(high.sum()) + 1, 600_000):
        assert_selects(scores, k)


@pytest.mark.parametrize("order", ["ascending", "descending"])
def test_sorted_data(order: str) -> None:
    scores = list(torch.linspace(-3, 5, 900_001).split(120_000))
    scores = [score.flip(0) for score in scores[::-1]] if order == "descending" else scores
    for k in (1, 1000, 450_000, 900_001):
        assert_selects(scores, k)


def test_double_scores_that_are_equal_as_floats() -> None:
    scores = [1 + torch.arange(1000, dtype=torch.float64).flip(0) * 2.0**-52]
    for k in (1, 500, 1000):
        assert_selects(scores, k)


def test_the_bits_of_a_mask() -> None:
    scores = [torch.arange(70.0), torch.tensor([100.0, 0.0, 99.0])]
    mask, threshold = ops.select(scores, 8)
    assert float(threshold) == 64.0
    assert mask.tolist() == [0, 0b111111, 0b101]


def test_opcheck_and_compile() -> None:
    scores = mixed((7, 9), (3,))
    assert_traceable("select", scores, 20)
    mask, _ = ops.select(scores, 20)
    assert_traceable("select_mask", mask, scores)
    assert_traceable("select_indices", mask, scores, 20)


def test_indices_into_the_very_largest_tensors_are_int64() -> None:
    like = [torch.empty(2**31, device="meta"), torch.empty(1, device="meta")]
    indices, _ = ops.select_indices(torch.empty(2**25 + 1, dtype=torch.int64, device="meta"), like, 5)
    assert indices.dtype == torch.int64


BAD = {
    "no elements": ([torch.zeros(0)], 1, r"`k` must lie in \[1, 0\], got 1"),
    "k zero": ([torch.zeros(3), torch.zeros(2)], 0, r"`k` must lie in \[1, 5\], got 0"),
    "k too large": ([torch.zeros(3), torch.zeros(2)], 6, r"`k` must lie in \[1, 5\], got 6"),
    "int": ([torch.zeros(3).int()], 1, "`scores` must be float32, float64, bfloat16 or float16, got Int"),
    "mixed": ([torch.zeros(3), torch.zeros(3).double()], 1, "`scores` must be Float, got Double"),
    "strides": ([torch.zeros(3, 4).t()], 1, "`scores` must be contiguous"),
    "nan": ([torch.tensor([1.0, math.nan, 2.0, math.nan])], 1, "`scores` must not be NaN, got 2 NaN elements"),
}


@pytest.mark.parametrize("fault", by_fault(BAD, "nan"))
def test_bad_arguments(fault: str) -> None:
    scores, k, text = BAD[fault]
    with pytest.raises(RuntimeError, match=text):
        ops.select(scores, k)


def test_nothing_to_select_from() -> None:
    with pytest.raises(ValueError, match="`scores` must not be empty"):
        ops.select([], 1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("at", [0, 1, 255, 699_999])
def test_one_nan_anywhere_is_found(at: int, dtype: torch.dtype) -> None:
    (scores,) = mixed((700_000,), dtype=dtype)
    for value in (math.nan, -math.nan):
        scores[at] = value
        if not ON_DEVICE:
            with pytest.raises(RuntimeError, match="`scores` must not be NaN, got 1 NaN elements"):
                ops.select([scores], 1000)
        else:
            mask, threshold = ops.select([scores], 1000)
            assert bool(threshold.isnan())
            assert int(ops.select_mask(mask, [scores])[0].sum()) == 1000


MASK_BAD = {
    "dim": (torch.zeros(1, 1, dtype=torch.int64), r"`mask` must be 1-D, got shape \(1, 1\)"),
    "dtype": (torch.zeros(1), "`mask` must be Long, got Float"),
    "size": (torch.zeros(2, dtype=torch.int64), "`mask` must have size 1 in dimension 0"),
    "end": (torch.tensor([0b1000]), "`mask` must not go beyond the end of a tensor"),
}


@pytest.mark.parametrize("fault", by_fault(MASK_BAD, "end"))
def test_bad_masks(fault: str) -> None:
    mask, text = MASK_BAD[fault]
    with pytest.raises(RuntimeError, match=text):
        ops.select_mask(mask, [torch.zeros(3)])


@reads_data
def test_indices_of_a_wrong_count() -> None:
    with pytest.raises(RuntimeError, match="`k` must be the number of selected elements, 2, got 3"):
        ops.select_indices(torch.tensor([0b101]), [torch.zeros(3)], 3)
