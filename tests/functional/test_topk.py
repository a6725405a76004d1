"""topk_mask: structures, counts and shares, errors. The operator itself is tested in ops/test_select.py."""

import math
from typing import Any

import pytest
import torch
from cases import LAYOUTS, randn
from hypothesis import given
from hypothesis import strategies as st

from fastforget.functional.topk import topk_mask

SCORES = [torch.tensor([[3.0, 1.0], [2.0, 3.0]]), torch.tensor([3.0, 0.0])]


def test_a_tensor_a_list_and_a_dict_keep_their_structure() -> None:
    mask = topk_mask(SCORES[0], 2)
    assert mask.tolist() == [[True, False], [False, True]]
    assert [m.tolist() for m in topk_mask(SCORES, 3)] == [[[True, False], [False, True]], [True, False]]
    assert [m.tolist() for m in topk_mask(tuple(SCORES), 2)] == [[[True, False], [False, True]], [False, False]]
    found = topk_mask({"z": SCORES[0], "a": SCORES[1]}, 3)
    assert list(found) == ["z", "a"]
    assert found["a"].tolist() == [True, False]


@given(
    st.lists(st.lists(st.sampled_from([-1.0, -0.0, 0.0, 0.5, 2.0, math.inf]), max_size=6), min_size=1, max_size=4),
    st.data(),
)
def test_marks_exactly_k_of_the_largest(values: list[list[float]], data: Any) -> None:
    total = sum(map(len, values))
    if total == 0:
        return
    k = data.draw(st.integers(1, total))
    masks = topk_mask([torch.tensor(v) for v in values], k)
    flat = [(-x, i) for i, x in enumerate(x for v in values for x in v)]
    expected = {i for _, i in sorted(flat)[:k]}
    assert {i for i, marked in enumerate(m for mask in masks for m in mask.tolist()) if marked} == expected


@pytest.mark.parametrize(("share", "expected"), [(1.0, 10), (0.5, 5), (0.25, 3), (0.24, 2), (1e-9, 1)])
def test_share(share: float, expected: int) -> None:
    assert int(topk_mask(torch.arange(10.0), share).sum()) == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_strides_and_dtypes(layout: str, dtype: torch.dtype) -> None:
    scores = randn(13, 7).to(dtype)
    expected = topk_mask(scores.double(), 20)
    given_scores = LAYOUTS[layout](scores)
    before = given_scores.clone()
    mask = topk_mask(given_scores, 20)
    assert mask.dtype == torch.bool
    assert mask.shape == (13, 7)
    assert torch.equal(mask, expected)
    assert torch.equal(given_scores, before)


def test_expanded_scores_and_scores_with_gradients() -> None:
    assert int(topk_mask(torch.ones(1).expand(5, 2), 3).sum()) == 3
    mask = topk_mask(torch.arange(5.0, requires_grad=True), 2)
    assert mask.tolist() == [False, False, False, True, True]


def test_empty_tensors_among_others() -> None:
    masks = topk_mask([torch.zeros(0, 3), torch.ones(2)], 1)
    assert [mask.shape for mask in masks] == [(0, 3), (2,)]
    assert masks[1].tolist() == [True, False]


BAD = [
    (ValueError, r"`k` must lie in \[1, 6\], got 0", SCORES, 0),
    (ValueError, r"`k` must lie in \[1, 6\], got 7", SCORES, 7),
    (ValueError, r"`k` must lie in \[1, 6\], got -1", SCORES, -1),
    (ValueError, r"`k` as a share must lie in \(0, 1\], got 0.0", SCORES, 0.0),
    (ValueError, r"`k` as a share must lie in \(0, 1\], got 1.5", SCORES, 1.5),
    (ValueError, r"`k` as a share must lie in \(0, 1\], got nan", SCORES, math.nan),
    (TypeError, "`k` must be an int or a float, got str", SCORES, "3"),
    (TypeError, "`k` must be an int or a float, got bool", SCORES, True),
    (TypeError, "`scores` must be a tensor, list or dict of tensors, got float", 3.0, 1),
    (TypeError, "`scores` must hold tensors only, got int", [SCORES[0], 3], 1),
    (TypeError, "`scores` must hold tensors only, got float", [3.0], 1),
    (ValueError, "`scores` must not be empty", [], 1),
    (ValueError, "`scores` must not be empty", {}, 1),
    (ValueError, "`scores` must not be empty", torch.zeros(0), 1),
    (ValueError, "`scores` must be floating point, got torch.int64", torch.arange(3), 1),
    (
        ValueError,
        "`scores` must have one dtype and device, got torch.float32 on .* and torch.float64 on ",
        [SCORES[0], SCORES[1].double()],
        1,
    ),
    (
        ValueError,
        "`scores` must have one dtype and device, got torch.float32 on .* and torch.float32 on meta",
        [SCORES[0], SCORES[1].to("meta")],
        1,
    ),
    (
        ValueError,
        r"`scores` must not be NaN, got NaN in a tensor of shape \(2,\)",
        [SCORES[0], torch.tensor([1.0, math.nan])],
        1,
    ),
]


@pytest.mark.parametrize(("kind", "text", "scores", "k"), BAD)
def test_bad_arguments(kind: type[Exception], text: str, scores: Any, k: Any) -> None:
    with pytest.raises(kind, match=text):
        topk_mask(scores, k)


def test_device_without_kernels() -> None:
    with pytest.raises(NotImplementedError, match="`scores` is on meta; this build of fastforget has kernels for"):
        topk_mask(torch.empty(3, device="meta"), 1)
