"""Every recognised use of a parameter is computed exactly."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from asserts import assert_close, assert_fisher, prepared, square_error
from cases import randn
from fisher.small_modules import LINEAR, TARGETS, Cube, N, Using
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fastforget.fisher.compute import fisher_diagonal


def test_one_sample_of_one_token() -> None:
    """Reshaped, [1, 1, E] does not show which of its dimensions held the sample; with one sample it does not matter."""

    def tokens_first(p: Any, x: Tensor) -> Tensor:
        return F.linear(x.transpose(0, 1).reshape(-1, 5), p.w, p.b).view(x.shape[1], -1, 5).transpose(0, 1)

    assert_fisher(lambda: Using(tokens_first, **LINEAR), randn(1, 1, 5, seed=1), TARGETS[:1])


def windows(p: Any, x: Tensor) -> Tensor:
    """Swin: windows of 2 x 2 out of [N, H, W, C], a layer on each, and back."""
    n, h, w, c = x.shape
    x = x.view(n, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)
    x = F.linear(torch.roll(x, 1, 1), p.w, p.b)
    return x.view(n, h // 2, w // 2, 2, 2, -1).permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, -1)


def in_place_residual(p: Any, x: Tensor) -> Tensor:
    h = F.linear(x, p.w, p.b)
    h += x
    h = F.linear(F.relu(h, inplace=True), p.v)
    h += p.b
    return h.relu_()


def two_views(p: Any, x: Tensor) -> Tensor:
    q, k = p.w.chunk(2)
    return F.linear(x, q) * F.linear(x, k)


def frames(function: Callable[[Any, Tensor], Tensor]) -> Callable[[Any, Tensor], Tensor]:
    """A function of [N * T, ...] for inputs [N, T, ...]."""
    return lambda p, x: function(p, x.flatten(0, 1)).unflatten(0, x.shape[:2])


def in_place_on_a_view(p: Any, x: Tensor) -> Tensor:
    h = F.linear(x, p.w)
    h[:, 1:] += p.b
    h[:, 2:].add_(p.b)
    return h


def checkpointed(p: Any, x: Tensor) -> Tensor:
    return checkpoint(lambda y: F.linear(F.linear(y, p.w).tanh(), p.w), x, use_reentrant=False)


USES: dict[str, tuple[Callable[..., Tensor], dict[str, tuple[int, ...]], tuple[int, ...]]] = {
    "F.linear": (lambda p, x: F.linear(x, p.w, p.b), LINEAR, (5,)),
    "x @ p": (lambda p, x: x @ p.w, {"w": (5, 7)}, (5,)),
    "x @ p on tokens": (lambda p, x: x @ p.w, {"w": (5, 7)}, (6, 5)),
    "x @ p.T": (lambda p, x: x @ p.w.T, {"w": (7, 5)}, (6, 5)),
    "torch.matmul": (lambda p, x: torch.matmul(x, p.w), {"w": (5, 7)}, (6, 5)),
    "torch.mm": (lambda p, x: torch.mm(x, p.w), {"w": (5, 7)}, (5,)),
    "torch.addmm": (lambda p, x: torch.addmm(p.b, x, p.w), {"w": (5, 7), "b": (7,)}, (5,)),
    "GPT-2 Conv1D": (
        lambda p, x: torch.addmm(p.b, x.view(-1, 5), p.w).view(*x.shape[:-1], 7),
        {"w": (5, 7), "b": (7,)},
        (6, 5),
    ),
    "F.conv2d": (lambda p, x: F.conv2d(x, p.w, p.b, 2, 1), {"w": (4, 3, 3, 3), "b": (4,)}, (3, 6, 7)),
    "F.layer_norm": (lambda p, x: F.layer_norm(x, (5,), p.w, p.b), {"w": (5,), "b": (5,)}, (6, 5)),
    "x + p": (lambda p, x: x + p.b, {"b": (5,)}, (6, 5)),
    "p + x": (lambda p, x: p.b + x, {"b": (5,)}, (6, 5)),
    "torch.add": (lambda p, x: torch.add(x, p.b), {"b": (6, 1)}, (6, 5)),
    "x += p": (lambda p, x: (2 * x).add_(p.b), {"b": (5,)}, (6, 5)),
    "x * p": (lambda p, x: x * p.s, {"s": (5,)}, (6, 5)),
    "p * x": (lambda p, x: p.s * x, {"s": (1,)}, (6, 5)),
    "scalar parameter": (lambda p, x: p.s * x + p.b, {"s": (), "b": ()}, (6, 5)),
    "layer scale": (lambda p, x: x + p.s * x.tanh(), {"s": (3, 1, 1)}, (3, 4, 5)),
    "parameter larger than the activation": (lambda p, x: x.unsqueeze(1) * p.s + p.b, {"s": (3, 5), "b": (3, 1)}, (5,)),
    "class token": (lambda p, x: torch.cat([p.t.expand(len(x), -1, -1), x], 1), {"t": (1, 1, 5)}, (6, 5)),
    "class token repeated": (lambda p, x: torch.cat([p.t.repeat(len(x), 1, 1), x], 1), {"t": (1, 2, 5)}, (6, 5)),
    "positional embedding": (lambda p, x: x + p.e, {"e": (1, 6, 5)}, (6, 5)),
    "part of a positional embedding": (lambda p, x: (x + p.e[:, :6]).tanh() + p.e[:, 2:8], {"e": (1, 9, 5)}, (6, 5)),
    "looked-up positions": (
        lambda p, x: x + F.embedding(torch.tensor([[0, 3, 3, 1, 2, 0]]), p.w, padding_idx=1),
        {"w": (4, 5)},
        (6, 5),
    ),
    "looked-up positions used twice": (
        lambda p, x: (x + (e := F.embedding(torch.arange(6), p.w))).sin().add_(e),
        {"w": (8, 5)},
        (6, 5),
    ),
    "in-place residual": (in_place_residual, {**LINEAR, "v": (5, 5)}, (5,)),
    "used twice": (lambda p, x: F.linear(F.linear(x, p.w, p.b).tanh(), p.w, p.b), LINEAR, (5,)),
    "used twice on tokens": (lambda p, x: F.linear(F.linear(x, p.w, p.b).tanh(), p.w, p.b), LINEAR, (6, 5)),
    "convolution used twice": (
        lambda p, x: F.conv2d(F.conv2d(x, p.w, p.b, 1, 1).tanh(), p.w, p.b),
        {"w": (3, 3, 3, 3), "b": (3,)},
        (3, 6, 7),
    ),
    "matrix and its transpose": (lambda p, x: F.linear(F.linear(x, p.w).tanh(), p.w.t()), {"w": (7, 5)}, (5,)),
    "two views": (two_views, {"w": (6, 5)}, (5,)),
    "overlapping views": (lambda p, x: F.linear(x, p.w[:4]) * F.linear(x, p.w[2:6]), {"w": (6, 5)}, (5,)),
    "reshaped parameter": (lambda p, x: F.linear(x, p.w.view(6, 5)), {"w": (2, 3, 5)}, (6, 5)),
    "time-distributed convolution": (
        frames(lambda p, x: F.conv2d(x, p.w, p.b, 2, 1)),
        {"w": (4, 3, 3, 3), "b": (4,)},
        (5, 3, 6, 7),
    ),
    "time-distributed transposed": (
        frames(lambda p, x: F.conv_transpose1d(x, p.w, p.b, 2)),
        {"w": (3, 4, 3), "b": (4,)},
        (5, 3, 6),
    ),
    "time-distributed group norm": (
        frames(lambda p, x: F.group_norm(x, 2, p.w, p.b)),
        {"w": (4,), "b": (4,)},
        (5, 4, 6),
    ),
    "windows": (windows, {"w": (6, 5), "b": (6,)}, (4, 6, 5)),
    "unfold": (lambda p, x: F.linear(F.unfold(x, 3).mT, p.w), {"w": (5, 27)}, (3, 5, 6)),
    "sequence first": (lambda p, x: F.linear(x.transpose(0, 1), p.w, p.b).transpose(0, 1), LINEAR, (6, 5)),
    "mean over tokens, then indexing": (
        lambda p, x: F.linear(x, p.w, p.b)[:, 1:].mean(1)[:, None, [2, 0]],
        LINEAR,
        (6, 5),
    ),
    "attention": (
        lambda p, x: F.scaled_dot_product_attention(*F.linear(x, p.w).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)),
        {"w": (24, 5)},
        (6, 5),
    ),
    "custom autograd function": (
        lambda p, x: F.linear(Cube.apply(F.linear(x, p.w, p.b)), p.v),
        {**LINEAR, "v": (3, 5)},
        (5,),
    ),
    "torch.batch_norm": (
        lambda p, x: torch.batch_norm(x, p.w, p.b, x.new_ones(5), x.new_full((5,), 2.0), False, 0.1, 1e-5, False),
        {"w": (5,), "b": (5,)},
        (5, 3),
    ),
    "in place on a view": (in_place_on_a_view, LINEAR, (6, 5)),
    "activation checkpointing": (checkpointed, {"w": (5, 5)}, (5,)),
    "stacked experts": (
        lambda p, x: torch.stack([F.linear(x, p.w[i]) for i in range(3)], 1),
        {"w": (3, 4, 5)},
        (5,),
    ),
    "tokens first, flattened": (
        lambda p, x: F.linear(x.transpose(0, 1).reshape(-1, 5), p.w, p.b).view(6, -1, 5).transpose(0, 1),
        LINEAR,
        (6, 5),
    ),
    "batch norm of [N * T, C]": (
        lambda p, x: F.batch_norm(x.reshape(-1, 4), x.new_zeros(4), x.new_ones(4), p.w).view(x.shape),
        {"w": (4,)},
        (6, 4),
    ),
    "unused": (lambda p, x: x * p.s, {"s": (5,), "never": (3,)}, (5,)),
}


@pytest.mark.parametrize("name", USES)
def test_use(name: str) -> None:
    function, shapes, size = USES[name]
    assert_fisher(lambda: Using(function, **shapes), randn(N, *size, seed=1), TARGETS)


@pytest.mark.parametrize("kept", ["w", "b"])
def test_other_parameters_of_a_use_may_be_left_out(kept: str) -> None:
    for name in ("F.linear", "torch.addmm", "F.conv2d", "F.layer_norm"):
        function, shapes, size = USES[name]
        model, x = prepared(lambda f=function, s=shapes: Using(f, **s)), randn(N, *size, seed=1)
        found = fisher_diagonal(model, x, TARGETS, loss=square_error, parameters=[kept])
        assert found.fallback == {}, name
        assert_close(found[kept], fisher_diagonal(model, x, TARGETS, loss=square_error)[kept], name=name)
