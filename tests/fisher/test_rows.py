"""Rows that a model takes from all samples, in an order that depends on them, and puts back."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from asserts import assert_fisher
from cases import randn, sample_weights
from fisher.small_modules import TARGETS, N, Using
from torch import Tensor

from fastforget.fisher.capture.layout import Rows, rows_by_sample

EXPERTS = {"w": (3, 4, 8), "v": (3, 8, 4)}
X, WIDE = randn(N, 6, 5, seed=1), randn(N, 6, 8, seed=1)


def routed(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens [N * T, 8], the two experts of each and their shares, which have gradients; one expert is never taken."""
    tokens = x.reshape(-1, 8)
    share, expert = tokens[:, :2].softmax(1), (tokens[:, :2] > 0).long()
    return tokens, share, expert


def one_expert_after_another(p: Any, x: Tensor) -> Tensor:
    """As models of transformers compute experts by default where no faster way is chosen."""
    tokens, share, expert = routed(x)
    out = torch.zeros_like(tokens)
    for number in range(3):
        token, place = torch.where(expert == number)
        if len(token):
            h = F.linear(F.linear(tokens[token], p.w[number]).relu(), p.v[number])
            out.index_add_(0, token, (h * share[token, place, None]).to(out.dtype))
    return F.linear(out.view_as(x), p.v[0].T)


def grouped(x: Tensor, matrices: Tensor, ends: Tensor) -> Tensor:
    """Products of groups of rows; a loop for the reference, whose type the function of PyTorch does not take."""
    if x.dtype != torch.float64:
        return F.grouped_mm(x, matrices, offs=ends)
    starts = [0, *ends.tolist()]
    return torch.cat([x[starts[e] : starts[e + 1]] @ matrix for e, matrix in enumerate(matrices)])


def sorted_by_expert(p: Any, x: Tensor) -> Tensor:
    """As they compute them all at once."""
    tokens, share, expert = routed(x)
    chosen, order = torch.sort(expert.reshape(-1))
    ends = torch.bincount(chosen, minlength=3).cumsum(0, dtype=torch.int32)
    h = grouped(tokens[order // 2], p.w.transpose(-2, -1), ends)
    h = grouped(F.silu(h), p.v.transpose(-2, -1), ends) * share.reshape(-1)[order].unsqueeze(-1)
    back = torch.empty_like(order)
    back[order] = torch.arange(len(order))
    return h[back].view(len(tokens), 2, 8).sum(1).view_as(x)


def matrices_that_are_not_transposed(p: Any, x: Tensor) -> Tensor:
    tokens = x.reshape(-1, 8)
    chosen, order = torch.sort((tokens[:, 0] > 0).long())
    ends = torch.bincount(chosen, minlength=3).cumsum(0, dtype=torch.int32)
    h = grouped(tokens[order], p.v, ends)
    return torch.zeros(len(tokens), 4, dtype=x.dtype).index_add(0, order, h).view(len(x), -1, 4)


def some_by_a_mask(p: Any, x: Tensor) -> Tensor:
    tokens = x.reshape(-1, 5)
    chosen = tokens[:, 0] > 0
    out = torch.zeros_like(tokens)
    out[chosen] = F.linear(tokens[chosen], p.w, p.b)
    return out.view_as(x)


def some_by_a_mask_of_two_dimensions(p: Any, x: Tensor) -> Tensor:
    chosen = x[..., 0] > 0
    out = F.linear(x, p.w)
    out[chosen] = out[chosen] + F.linear(x[chosen], p.w, p.b) * x[chosen][:, :1]
    return out


def read_and_written(p: Any, x: Tensor) -> Tensor:
    tokens = x.reshape(-1, 5).clone()
    chosen = (tokens[:, 0] > 0).nonzero()[:, 0].flip(0)
    tokens[chosen] += tokens.index_select(0, chosen) @ p.w
    tokens[(tokens[:, 1] > 1).nonzero()[:, 0]] = 0.5
    return F.linear(tokens, p.w, p.b).view_as(x)


def gathered_into_a_buffer(p: Any, x: Tensor) -> Tensor:
    """The positive tokens of each sample, with the samples second: as many places as the sample with the most has."""
    long = x.transpose(0, 1)
    positive = x[..., 0] > 0
    sample, token = positive.nonzero(as_tuple=True)
    place = (positive.cumsum(1) - 1)[sample, token]
    buffer = x.new_zeros(positive.sum(1).max(), len(x), 5)
    buffer[place, sample] = F.linear(long[token, sample], p.w)
    return F.linear(buffer.sum(0), p.w, p.b)


def slice_after_slice(p: Any, x: Tensor) -> Tensor:
    """Keys of two parts, as in DeepSeek-V3."""
    keys = x.new_empty(len(x), 6, 9)
    keys[..., :5].copy_(F.linear(x, p.w, p.b))
    keys[..., 5:] = x[..., :4]
    return keys @ keys.transpose(1, 2)


FUSED: dict[str, tuple[Callable[..., Tensor], dict[str, tuple[int, ...]]]] = {
    "one expert after another": (one_expert_after_another, EXPERTS),
    "sorted by expert": (sorted_by_expert, EXPERTS),
    "matrices that are not transposed": (matrices_that_are_not_transposed, {"v": (3, 8, 4)}),
    "some by a mask": (some_by_a_mask, {"w": (5, 5), "b": (5,)}),
    "some by a mask of two dimensions": (some_by_a_mask_of_two_dimensions, {"w": (5, 5), "b": (5,)}),
    "read and written": (read_and_written, {"w": (5, 5), "b": (5,)}),
    "gathered into a buffer": (gathered_into_a_buffer, {"w": (5, 5), "b": (5,)}),
    "slice after slice": (slice_after_slice, {"w": (5, 5), "b": (5,)}),
}


@pytest.mark.parametrize("groups", [None, 3])
@pytest.mark.parametrize("name", FUSED)
def test_no_fallback(name: str, groups: int | None) -> None:
    function, shapes = FUSED[name]
    weights = None if groups is None else sample_weights(groups, N)
    x = WIDE if 8 in next(iter(shapes.values())) else X
    assert_fisher(lambda: Using(function, **shapes), x, TARGETS, weights=weights)


def places_count(p: Any, x: Tensor) -> Tensor:
    """Each row times its place among the rows of all samples."""
    tokens = x.reshape(-1, 5)
    order = tokens[:, 0].argsort()
    h = F.linear(tokens[order], p.w) * torch.arange(len(order), dtype=x.dtype).unsqueeze(1)
    return torch.zeros_like(tokens).index_add(0, order, h).view_as(x)


def rows_that_see_each_other(p: Any, x: Tensor) -> Tensor:
    tokens = x.reshape(-1, 5)
    order = tokens[:, 0].argsort()
    h = F.linear(tokens[order], p.w).cumsum(0)
    return torch.zeros_like(tokens).index_add(0, order, h).view_as(x)


def to_another_sample(p: Any, x: Tensor) -> Tensor:
    tokens = x.reshape(-1, 5)
    order = tokens[:, 0].argsort()
    other = (order + 6) % len(tokens)
    return torch.zeros_like(tokens).index_add(0, other, F.linear(tokens[order], p.w)).view_as(x)


def rows_of_others_added(p: Any, x: Tensor) -> Tensor:
    tokens = F.linear(x, p.w).reshape(-1, 5)
    return (tokens + 0.5 * tokens[tokens[:, 0].argsort()]).view_as(x)


def written_over_those_of_others(p: Any, x: Tensor) -> Tensor:
    tokens = F.linear(x, p.w).reshape(-1, 5)
    order = tokens[:, 0].argsort()
    out = tokens.clone()
    out[order[:3]] = tokens[order[3:6]]
    return out.view_as(x)


def chosen_among_all(p: Any, x: Tensor) -> Tensor:
    """The rows are kept apart, but which are taken depends on the other samples."""
    tokens = x.reshape(-1, 5)
    best = tokens[:, 0].topk(len(tokens) // 3).indices
    return tokens.index_add(0, best, F.linear(tokens[best], p.w)).view_as(x)


MIXING = [
    chosen_among_all,
    places_count,
    rows_that_see_each_other,
    to_another_sample,
    rows_of_others_added,
    written_over_those_of_others,
]


@pytest.mark.parametrize("function", MIXING)
def test_rows_that_are_not_kept_apart(function: Callable[..., Tensor]) -> None:
    assert_fisher(lambda: Using(function, w=(5, 5)), X, TARGETS, fallback={"w"})


def test_rows_are_sorted_by_sample() -> None:
    rows = torch.arange(10.0).view(5, 2)
    found = rows_by_sample(rows, Rows(torch.tensor([2, 0, 2, 2, 0])), 4)
    expected = torch.zeros(4, 3, 2)
    expected[0, :2], expected[2] = rows[[1, 4]], rows[[0, 2, 3]]
    assert torch.equal(found, expected)
    assert rows_by_sample(rows[:0], Rows(torch.zeros(0, dtype=torch.int64)), 4).shape == (4, 0, 2)
