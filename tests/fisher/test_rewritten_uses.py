"""Uses of parameters that no recogniser takes as they are: what is computed from parameters, and other functions."""

from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from asserts import assert_close, assert_fisher, batch_one_loop, prepared, square_error
from cases import randn
from fisher.small_modules import LINEAR, TARGETS, Cube, N, Using
from torch import Tensor

from fastforget.fisher import receiver
from fastforget.fisher.compute import fisher_diagonal


def standardised_by_batch_norm(p: Any, x: Tensor) -> Tensor:
    weight = F.batch_norm(p.w.reshape(1, 4, -1), None, None, training=True, momentum=0.0).reshape_as(p.w)
    return F.conv1d(x, weight, p.b, padding=1)


def biased_attention(p: Any, x: Tensor) -> Tensor:
    """A bias looked up by the distance of two positions, as in Swin and T5."""
    distance = torch.arange(6)[:, None] - torch.arange(6) + 5
    bias = F.embedding(distance, p.w).permute(2, 0, 1).unsqueeze(0)  # [1, heads, 6, 6]
    heads = x.view(len(x), 6, 2, 3).transpose(1, 2)
    return F.scaled_dot_product_attention(heads, heads, heads, attn_mask=bias).transpose(1, 2).flatten(2)


def biased_windows(p: Any, x: Tensor) -> Tensor:
    """The same for windows of an image: [N * 3, heads, 2, 2], with a mask per window."""
    windows = x.reshape(-1, 2, 2, 3).transpose(1, 2)
    bias = p.w + torch.arange(3.0, dtype=x.dtype).repeat(len(x)).view(-1, 1, 1, 1)
    return F.scaled_dot_product_attention(windows, windows, windows, attn_mask=bias.expand(-1, 2, 2, 2)).reshape_as(x)


def repeated_keys(p: Any, x: Tensor) -> Tensor:
    """Keys of positions repeated as a whole for every sample, [N * heads, ...], as in DeBERTa."""
    keys = F.linear(F.embedding(torch.arange(6), p.e), p.w).view(6, 2, 3).transpose(0, 1)
    queries = x.view(len(x), 6, 2, 3).transpose(1, 2).reshape(-1, 6, 3)
    return torch.bmm(queries, keys.repeat(len(x), 1, 1).transpose(1, 2)).view(len(x), 2, 36)


def token_kinds(p: Any, x: Tensor) -> Tensor:
    return x + F.embedding(torch.zeros(x.shape[:2], dtype=torch.long), p.w)


def changed_in_place(p: Any, x: Tensor) -> Tensor:
    return x + F.embedding(torch.arange(6), p.w).mul_(x.new_tensor(2))


REWRITTEN: dict[str, tuple[Callable[..., Tensor], dict[str, tuple[int, ...]], tuple[int, ...]]] = {
    "function of a weight": (lambda p, x: F.linear(x, p.w.exp(), p.b), LINEAR, (5,)),
    "standardised weight": (lambda p, x: F.linear(x, (p.w - p.w.mean()) / p.w.std(), p.b), LINEAR, (5,)),
    "weight standardised by batch norm": (standardised_by_batch_norm, {"w": (4, 3, 3), "b": (4,)}, (3, 6)),
    "two weights of one parameter": (lambda p, x: F.linear(F.linear(x, p.w.tanh()), p.w.sin()), {"w": (5, 5)}, (5,)),
    "one weight of two parameters": (
        lambda p, x: F.linear(F.linear(x, p.w @ p.v), p.w),
        {"w": (5, 5), "v": (5, 5)},
        (5,),
    ),
    "x - p": (lambda p, x: x - p.b, {"b": (5,)}, (6, 5)),
    "p - x": (lambda p, x: p.b - x, {"b": (5,)}, (6, 5)),
    "x / p": (lambda p, x: x / (3 + p.s.abs()), {"s": (5,)}, (6, 5)),
    "x *= p": (lambda p, x: (2 * x).mul_(p.s), {"s": (5,)}, (6, 5)),
    "torch.add with alpha": (lambda p, x: torch.add(x, p.b, alpha=2), {"b": (5,)}, (6, 5)),
    "where": (lambda p, x: torch.where(x > 0, x, p.s), {"s": (6, 1)}, (6, 5)),
    "addcmul": (lambda p, x: torch.addcmul(p.b, p.s, x, value=2), {"b": (5,), "s": (6, 1)}, (6, 5)),
    "einsum": (lambda p, x: torch.einsum("nd,do->no", x, p.w), {"w": (5, 7)}, (5,)),
    "einsum to heads": (lambda p, x: torch.einsum("nti,ihd->nhtd", x, p.w), {"w": (5, 2, 3)}, (6, 5)),
    "einsum from heads": (lambda p, x: torch.einsum("ihd,nthd->nti", p.w, x), {"w": (5, 2, 3)}, (6, 2, 3)),
    "einsum for each head": (lambda p, x: torch.einsum("nthd,shd->nhts", x, p.w), {"w": (4, 2, 3)}, (6, 2, 3)),
    "prelu": (lambda p, x: F.prelu(x, p.s), {"s": (3,)}, (3, 4)),
    "prelu of one slope": (lambda p, x: F.prelu(x, p.s), {"s": (1,)}, (3, 4)),
    "batched matrices": (lambda p, x: x.unsqueeze(1) @ p.w, {"w": (3, 5, 4)}, (6, 5)),
    "baddbmm": (
        lambda p, x: torch.baddbmm(p.b, x.transpose(0, 1), p.w).transpose(0, 1),
        {"w": (6, 5, 4), "b": (6, 1, 4)},
        (6, 5),
    ),
    "matrix on the left": (lambda p, x: p.w @ x, {"w": (4, 6)}, (6, 5)),
    "vector product": (lambda p, x: x @ p.w, {"w": (5,)}, (6, 5)),
    "gathered parameter": (lambda p, x: x + p.e[torch.tensor([1, 1, 3])], {"e": (4, 5)}, (3, 5)),
    "looked-up positions, scaled": (lambda p, x: x + 2 * F.embedding(torch.arange(6), p.w), {"w": (8, 5)}, (6, 5)),
    "looked-up positions, changed in place": (changed_in_place, {"w": (8, 5)}, (6, 5)),
    "looked-up kinds of tokens": (token_kinds, {"w": (2, 5)}, (6, 5)),
    "parameter expanded inside the model": (lambda p, x: F.linear(x, p.w.expand(7, 5)), {"w": (1, 5)}, (5,)),
    "convolution, scaled by its weight": (
        lambda p, x: F.conv1d(x, p.w, padding=1) * p.w.square().sum(),
        {"w": (4, 3, 3)},
        (3, 6),
    ),
    "parameter of a custom autograd function": (
        lambda p, x: Cube.apply(F.linear(x, p.w)) * Cube.apply(p.s),
        {"w": (5, 5), "s": (5,)},
        (5,),
    ),
    "position bias of attention": (biased_attention, {"w": (11, 2)}, (6, 6)),
    "position bias of windows": (biased_windows, {"w": (1, 2, 2, 2)}, (6, 6)),
    "keys of positions": (repeated_keys, {"e": (6, 5), "w": (6, 5)}, (6, 6)),
}  # fmt: skip


@pytest.mark.parametrize("name", REWRITTEN)
def test_no_fallback(name: str) -> None:
    function, shapes, size = REWRITTEN[name]
    assert_fisher(lambda: Using(function, **shapes), randn(N, *size, seed=1), TARGETS)


@pytest.mark.parametrize("name", ["standardised weight", "two weights of one parameter", "position bias of attention"])
def test_groups_of_weights(name: str) -> None:
    function, shapes, size = REWRITTEN[name]
    weights = randn(2, N, seed=3).abs()
    assert_fisher(lambda: Using(function, **shapes), randn(N, *size, seed=1), TARGETS, weights=weights)


@pytest.mark.parametrize("size", [2**25, 200, 1])
@pytest.mark.parametrize("name", ["two weights of one parameter", "one weight of two parameters"])
def test_more_samples_than_go_together(name: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiver, "_BYTES", size)
    function, shapes, inputs = REWRITTEN[name]
    weights = randn(2, 70, seed=3).abs()
    assert_fisher(lambda: Using(function, **shapes), randn(70, *inputs, seed=1), randn(70, seed=2), weights=weights)


def test_several_backwards() -> None:
    """Of labels of the model's own: the graph of what was computed from parameters is needed again."""
    function, shapes, size = REWRITTEN["standardised weight"]
    model, x = prepared(lambda: Using(function, **shapes)), randn(N, *size, seed=1)
    found = fisher_diagonal(model, x, labels="expectation")
    each = [fisher_diagonal(model, x[n : n + 1], labels="expectation") for n in range(N)]
    assert not found.fallback
    for name, value in found.items():
        assert_close(value, torch.stack([one[name] for one in each]).mean(0), name=name)


@pytest.mark.parametrize("square", ["sample", "batch"])
@pytest.mark.parametrize("samples", [1, 2])
def test_weights_standardised_by_batch_norm(samples: int, square: Literal["sample", "batch"]) -> None:
    """In runs in which nobody follows the samples, too: those of one sample, and of a batch that counts as one."""
    function, shapes, size = REWRITTEN["weight standardised by batch norm"]
    model, x, targets = prepared(lambda: Using(function, **shapes)), randn(samples, *size, seed=1), TARGETS[:samples]
    found = fisher_diagonal(model, x, targets, loss=square_error, square=square)
    exact, rows = prepared(lambda: Using(function, **shapes)).double(), torch.ones(1, samples)
    fisher, gradient = batch_one_loop(exact, x.double(), targets.double(), square_error, rows)
    for name, value in found.items():
        assert_close(value, (fisher[name] if square == "sample" else gradient[name].square())[0], name=name)


def test_rows_that_differ_by_sample_fall_back() -> None:
    """Each sample alone gets the first row, but in a batch its own."""
    build = lambda: Using(lambda p, x: x + p.w[torch.arange(len(x))].unsqueeze(1), w=(N, 5))  # noqa: E731
    assert_fisher(build, randn(N, 6, 5, seed=1), TARGETS, fallback={"w"})


def test_a_computed_weight_that_is_written_to_later_falls_back() -> None:
    def forward(p: Any, x: Tensor) -> Tensor:
        weight = p.w * 2
        y = x + weight
        weight.add_(1)
        return F.linear(y, p.v)

    assert_fisher(lambda: Using(forward, w=(5,), v=(4, 5)), randn(N, 6, 5, seed=1), TARGETS, fallback={"w"})


def test_nothing_is_left_on_the_model() -> None:
    function, shapes, size = REWRITTEN["two weights of one parameter"]
    model = prepared(lambda: Using(function, **shapes))
    fisher_diagonal(model, randn(N, *size, seed=1), TARGETS, loss=square_error)
    assert model.w.grad is None
    assert not model.w.grad_fn
