"""Drawing codes: the frozen stream, its exact values and its statistics."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fastforget.codes.drawing import draw_code, to_normal

WORD = 2**64 - 1


def philox(counter: list[int], key: list[int]) -> list[int]:
    """One block of Philox 4x64-10 as Salmon et al. (SC 2011) define it: the check on the library that we rely on."""
    (a, b, c, d), (k, m) = counter, key
    for _ in range(10):
        first, second = 0xD2E7470EE14C6C93 * a, 0xCA5A826395121157 * c
        a, b, c, d = (second >> 64) ^ b ^ k, second & WORD, (first >> 64) ^ d ^ m, first & WORD
        k, m = (k + 0x9E3779B97F4A7C15) & WORD, (m + 0xBB67AE8584CAA73B) & WORD
    return [a, b, c, d]


def draw(distribution: str, *shapes: tuple[int, ...], seed: int = 0, cls: int = 0, index: int = 0) -> list[Tensor]:
    return draw_code(distribution, shapes, seed=seed, cls=cls, index=index)


def test_own_philox_gives_the_published_known_answers() -> None:
    assert philox([0, 0, 0, 0], [0, 0]) == [
        0x16554D9ECA36314C,
        0xDB20FE9D672D0FDC,
        0xD7E772CEE186176B,
        0x7E68B68AEC7BA23B,
    ]
    assert philox([WORD] * 4, [WORD] * 2) == [
        0x87B092C3013FE90B,
        0x438C3C67BE8D0224,
        0x9CC7D7C69CD777B6,
        0xA09CAEBF594F0BA0,
    ]


@given(
    seed=st.integers(0, WORD),
    cls=st.integers(0, 2**32 - 1),
    index=st.integers(0, 2**32 - 1),
    size=st.integers(1, 9),
)
def test_uniform_is_philox_keyed_by_seed_class_and_index(seed: int, cls: int, index: int, size: int) -> None:
    words = [word for block in (1, 2, 3) for word in philox([block, 0, 0, 0], [seed, cls << 32 | index])]
    expected = [(word >> 40) / 2**24 for word in words[:size]]
    (drawn,) = draw("uniform", (size,), seed=seed, cls=cls, index=index)
    assert drawn.dtype == torch.float32
    assert drawn.tolist() == expected


@given(
    seed=st.integers(0, WORD),
    start=st.integers(0, 5),
    size=st.integers(1, 2**31 - 1),
    step=st.sampled_from([1, 3]),
)
def test_tokens_are_the_top_bits_of_the_same_words(seed: int, start: int, size: int, step: int) -> None:
    vocabulary = range(start, start + step * size, step)
    words = philox([1, 0, 0, 0], [seed, 2 << 32 | 1])
    (drawn,) = draw_code("tokens", [(4,)], seed=seed, cls=2, index=1, vocabulary=vocabulary)
    assert drawn.dtype == torch.int64
    assert drawn.tolist() == [vocabulary[(word >> 32) * size >> 32] for word in words]


def test_tokens_are_drawn_evenly() -> None:
    count, size = 65536, 7
    (drawn,) = draw_code("tokens", [(count,)], seed=0, cls=0, index=0, vocabulary=range(2, 2 + size))
    found = torch.bincount(drawn, minlength=2 + size)
    assert found[:2].tolist() == [0, 0]
    assert (found[2:] - count / size).abs().max() < 6 * math.sqrt(count / size)


# What a release has promised: changing any of these numbers makes every code in use irreproducible.
PINNED = {
    "normal": "-0x1.b4584cp-1 0x1.097394p-1 0x1.30cdc8p+1 0x1.91bffcp-5 0x1.85373ep+0 -0x1.cd14ccp-1",
    "uniform": "0x1.938a80p-3 0x1.65573ep-1 0x1.fb9554p-1 0x1.0a035ep-1 0x1.df2010p-1 0x1.78a7e8p-3",
    "blocks": "0x1.938a80p-3 0x1.938a80p-3 0x1.65573ep-1 0x1.65573ep-1 0x1.fb9554p-1 0x1.fb9554p-1",
}
PINNED_TOKENS = [6015, 21302, 30258, 15858, 28562, 5615]


def test_pinned_tokens() -> None:
    (drawn,) = draw_code("tokens", [(6,)], seed=7, cls=3, index=1, vocabulary=range(2, 30522))
    assert drawn.tolist() == PINNED_TOKENS


@pytest.mark.parametrize("distribution", PINNED)
def test_pinned_values(distribution: str) -> None:
    (drawn,) = draw(distribution, (6,), seed=7, cls=3, index=1)
    assert drawn.tolist() == [float.fromhex(value) for value in PINNED[distribution].split()]


def test_normal_inverts_the_distribution_function() -> None:
    (normal,) = draw("normal", (2000,))
    (uniform,) = draw("uniform", (2000,))
    probability = 0.5 * (1 + torch.erf(normal.double() / math.sqrt(2)))
    # `uniform` keeps the top 24 bits of the same words.
    assert torch.allclose(probability, uniform.double(), atol=2**-23, rtol=0)


def test_normal_is_finite_and_symmetric_at_the_extreme_words() -> None:
    extreme = to_normal(torch.tensor([0, 2**52 - 1, 2**51 - 1, 2**51]))
    assert extreme.isfinite().all()
    assert 8 < extreme[1] < 8.3
    assert extreme[0] == -extreme[1]
    assert extreme[2] == -extreme[3]


@pytest.mark.parametrize(
    ("distribution", "mean", "variance", "fourth"),
    [("normal", 0, 1, 3), ("uniform", 0.5, 1 / 12, 1 / 80), ("blocks", 0.5, 1 / 12, 1 / 80)],
)
def test_moments(distribution: str, mean: float, variance: float, fourth: float) -> None:
    """Mean, variance and fourth central moment over 65,536 independent values, within six standard errors."""
    count = 65536
    shape = (count,) if distribution != "blocks" else (count // 64, 16, 16)
    (drawn,) = draw(distribution, shape)
    values = drawn.double()
    centred = values - mean
    assert abs(values.mean() - mean) < 6 * math.sqrt(variance / count)
    assert abs(centred.square().mean() - variance) < 6 * math.sqrt((fourth - variance**2) / count)
    assert abs(centred.pow(4).mean() - fourth) < 0.05 * fourth


def test_streams_of_different_codes_are_uncorrelated() -> None:
    keys = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (1, 1, 1), (2**64 - 1, 9, 0)]
    rows = torch.stack([draw("normal", (4096,), seed=s, cls=c, index=m)[0] for s, c, m in keys])
    correlation = torch.corrcoef(rows) - torch.eye(len(keys))
    assert correlation.abs().max() < 6 / math.sqrt(4096)


def test_leaves_are_cut_one_after_the_other_from_one_stream() -> None:
    first, second, scalar = draw("normal", (2, 3), (4,), ())
    (whole,) = draw("normal", (11,))
    assert torch.equal(torch.cat([first.flatten(), second, scalar.flatten()]), whole)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=3))
def test_blocks_are_constant_and_as_many_as_documented(sizes: list[int]) -> None:
    shape = tuple(sizes)
    (drawn,) = draw("blocks", shape)
    assert drawn.shape == shape
    spatial = range(1, len(shape)) if len(shape) > 1 else range(1)
    cells = [min(8, math.ceil(shape[dim] / 2)) for dim in spatial]
    for dim, expected in zip(spatial, cells, strict=True):
        rows = drawn.movedim(dim, 0).reshape(shape[dim], -1)
        steps = 1 + int((rows[1:] != rows[:-1]).any(1).sum())
        assert steps == expected
        if shape[dim] > 2:
            runs = torch.unique_consecutive(rows, dim=0, return_counts=True)[1]
            assert runs.max() - runs.min() <= 1


def test_blocks_of_a_scalar_is_one_uniform_number() -> None:
    assert torch.equal(draw("blocks", ())[0], draw("uniform", ())[0])
