"""fisher_diagonal on single layers and single uses of a parameter, against the float64 batch-1 loop."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from asserts import assert_close, assert_fisher, batch_one_loop, prepared, square_error
from cases import randn
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from fastforget.fisher import fisher_diagonal

N = 4
TARGETS = randn(N, seed=9)


class Using(nn.Module):
    """A function of bare parameters and inputs."""

    def __init__(self, function: Callable[..., Tensor], **shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.function = function
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.randn(shape)))

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(self, *inputs)


class First(nn.Module):
    """The first of the outputs of a module."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.module(*inputs)[0]


LAYERS = {
    "linear": (lambda: nn.Linear(5, 7), (5,)),
    "linear without bias": (lambda: nn.Linear(5, 7, bias=False), (5,)),
    "linear on tokens": (lambda: nn.Linear(5, 7), (6, 5)),
    "linear on a grid": (lambda: nn.Linear(5, 7), (2, 3, 5)),
    "conv1d": (lambda: nn.Conv1d(3, 5, 3, 2, 1), (3, 9)),
    "conv2d": (lambda: nn.Conv2d(3, 5, 3, padding=1), (3, 6, 7)),
    "conv2d without bias": (lambda: nn.Conv2d(3, 5, (3, 2), (2, 1), bias=False), (3, 6, 7)),
    "conv2d dilated": (lambda: nn.Conv2d(3, 5, 3, padding=2, dilation=2), (3, 6, 7)),
    "conv2d grouped": (lambda: nn.Conv2d(4, 12, 3, padding=1, groups=2), (4, 6, 7)),
    "conv2d depthwise": (lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4), (4, 6, 7)),
    "conv2d depthwise multiplier": (lambda: nn.Conv2d(4, 8, 3, 2, groups=4), (4, 6, 7)),
    "conv2d same": (lambda: nn.Conv2d(3, 5, 3, padding="same"), (3, 6, 7)),
    "conv1d same, even kernel": (lambda: nn.Conv1d(3, 5, 4, padding="same"), (3, 9)),
    "conv2d same, even kernel": (lambda: nn.Conv2d(3, 5, (4, 3), padding="same", dilation=(1, 2)), (3, 6, 7)),
    "conv2d valid": (lambda: nn.Conv2d(3, 5, 3, padding="valid"), (3, 6, 7)),
    "conv2d reflect": (lambda: nn.Conv2d(3, 5, 3, padding=1, padding_mode="reflect"), (3, 6, 7)),
    "conv2d circular": (lambda: nn.Conv2d(3, 5, 3, padding=(2, 1), padding_mode="circular"), (3, 6, 7)),
    "conv2d one position": (lambda: nn.Conv2d(3, 5, (6, 7)), (3, 6, 7)),
    "conv3d": (lambda: nn.Conv3d(3, 5, (2, 3, 3), (1, 2, 1), (1, 1, 0)), (3, 4, 5, 6)),
    "conv3d grouped": (lambda: nn.Conv3d(4, 6, 3, padding=1, groups=2), (4, 3, 4, 5)),
    "conv1d transposed": (lambda: nn.ConvTranspose1d(3, 5, 4, 3, 1, 2), (3, 7)),
    "conv2d transposed": (lambda: nn.ConvTranspose2d(3, 5, 3, 2, 1, 1), (3, 5, 6)),
    "conv2d transposed, grouped, dilated": (lambda: nn.ConvTranspose2d(4, 6, 3, 2, 1, groups=2, dilation=2), (4, 5, 6)),
    "conv3d transposed": (lambda: nn.ConvTranspose3d(3, 2, 2, 2), (3, 3, 4, 3)),
    "layer norm": (lambda: nn.LayerNorm(6), (6,)),
    "layer norm on tokens": (lambda: nn.LayerNorm(6), (5, 6)),
    "layer norm of two dimensions": (lambda: nn.LayerNorm((5, 6)), (3, 5, 6)),
    "layer norm without bias": (lambda: nn.LayerNorm(6, bias=False), (5, 6)),
    "group norm": (lambda: nn.GroupNorm(2, 6), (6, 4, 5)),
    "group norm of channels alone": (lambda: nn.GroupNorm(3, 6), (6,)),
    "rms norm": (lambda: nn.RMSNorm(6), (5, 6)),
    "rms norm with eps": (lambda: nn.RMSNorm(6, eps=1e-3), (6,)),
    "instance norm": (lambda: nn.InstanceNorm2d(3, affine=True), (3, 4, 5)),
    "instance norm with running statistics": (
        lambda: nn.InstanceNorm1d(3, affine=True, track_running_stats=True),
        (3, 6),
    ),
    "instance norm 3d": (lambda: nn.InstanceNorm3d(3, affine=True), (3, 2, 3, 4)),
    "batch norm": (lambda: nn.BatchNorm1d(6), (6,)),
    "batch norm 1d": (lambda: nn.BatchNorm1d(6), (6, 5)),
    "batch norm 2d": (lambda: nn.BatchNorm2d(6), (6, 4, 5)),
    "batch norm 3d": (lambda: nn.BatchNorm3d(6), (6, 2, 3, 4)),
    "dropout in eval mode": (lambda: nn.Sequential(nn.Linear(5, 7), nn.Dropout(0.5), nn.Linear(7, 3)), (5,)),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # from the loop, not from this library
@pytest.mark.parametrize("name", LAYERS)
def test_layer(name: str) -> None:
    build, shape = LAYERS[name]
    assert_fisher(build, randn(N, *shape, seed=1), TARGETS)


@pytest.mark.parametrize("name", ["conv2d", "conv2d depthwise", "conv2d transposed", "batch norm 2d"])
def test_channels_last_input(name: str) -> None:
    build, shape = LAYERS[name]
    assert_fisher(build, randn(N, *shape, seed=1).to(memory_format=torch.channels_last), TARGETS)


@pytest.mark.parametrize("samples", [1, N])
def test_channels_last_group_norm(samples: int) -> None:
    """Against itself: the loop over samples crashes PyTorch 2.13 here (GroupNorm's backward on a batch of one)."""
    model, x, targets = prepared(lambda: nn.GroupNorm(2, 6)), randn(samples, 6, 4, 5, seed=1), TARGETS[:samples]
    expected = fisher_diagonal(model, x, targets, loss=square_error)
    found = fisher_diagonal(model, x.to(memory_format=torch.channels_last), targets, loss=square_error)
    for name, value in found.items():
        assert_close(value, expected[name])


def test_channels_last_group_norm_in_batches_of_one() -> None:
    model, x = prepared(lambda: nn.GroupNorm(2, 6)), randn(N, 6, 4, 5, seed=1)
    expected = fisher_diagonal(model, x, TARGETS, loss=square_error)
    last = x.to(memory_format=torch.channels_last)
    found = fisher_diagonal(model, last, TARGETS, loss=square_error, square="batch", batch_size=1)
    for name, value in found.items():
        assert_close(value, expected[name])


@pytest.mark.parametrize("name", ["linear", "linear on tokens", "conv2d", "layer norm", "batch norm 2d"])
def test_one_sample(name: str) -> None:
    build, shape = LAYERS[name]
    assert_fisher(build, randn(1, *shape, seed=1), TARGETS[:1])


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


def filled(p: Any, x: Tensor) -> Tensor:
    """An output buffer filled piece by piece."""
    h = x.new_zeros(len(x), 6, 5)
    h[:, 2:4] = F.linear(x, p.w)[:, :2]
    h[:, 0].copy_(x[:, 1])
    return F.linear(h, p.w) + p.b


def checkpointed(p: Any, x: Tensor) -> Tensor:
    return checkpoint(lambda y: F.linear(F.linear(y, p.w).tanh(), p.w), x, use_reentrant=False)


LINEAR = {"w": (5, 5), "b": (5,)}
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


class Cube(torch.autograd.Function):
    """A user's function that torch functions do not see."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return 3 * ctx.saved_tensors[0] ** 2 * grads[0]


def with_mode_off(p: Any, x: Tensor) -> Tensor:
    with torch._C.DisableTorchFunction():
        return F.linear(x, p.w)


def masked(p: Any, x: Tensor) -> Tensor:
    h = F.linear(x, p.w)
    h[h < 0] = 0.5
    return F.linear(h, p.w)


UNKNOWN: dict[str, tuple[Callable[..., Tensor], dict[str, tuple[int, ...]], tuple[int, ...], set[str]]] = {
    "function of a weight": (lambda p, x: F.linear(x, p.w.exp(), p.b), LINEAR, (5,), {"w"}),
    "standardised weight": (lambda p, x: F.linear(x, (p.w - p.w.mean()) / p.w.std(), p.b), LINEAR, (5,), {"w"}),
    "x - p": (lambda p, x: x - p.b, {"b": (5,)}, (6, 5), {"b"}),
    "x / p": (lambda p, x: x / (3 + p.s.abs()), {"s": (5,)}, (6, 5), {"s"}),
    "x *= p": (lambda p, x: (2 * x).mul_(p.s), {"s": (5,)}, (6, 5), {"s"}),
    "torch.add with alpha": (lambda p, x: torch.add(x, p.b, alpha=2), {"b": (5,)}, (6, 5), {"b"}),
    "einsum": (lambda p, x: torch.einsum("nd,do->no", x, p.w), {"w": (5, 7)}, (5,), {"w"}),
    "prelu": (lambda p, x: F.prelu(x, p.s), {"s": (3,)}, (3, 4), {"s"}),
    "bilinear": (lambda p, x: F.bilinear(x, x, p.w), {"w": (3, 5, 5)}, (5,), {"w"}),
    "batched matrices": (lambda p, x: x.unsqueeze(1) @ p.w, {"w": (3, 5, 4)}, (6, 5), {"w"}),
    "vector product": (lambda p, x: x @ p.w, {"w": (5,)}, (6, 5), {"w"}),
    "gathered parameter": (lambda p, x: x + p.e[torch.tensor([1, 1, 3])], {"e": (4, 5)}, (3, 5), {"e"}),
    "looked-up positions, scaled": (
        lambda p, x: x + 2 * F.embedding(torch.arange(6), p.w),
        {"w": (8, 5)},
        (6, 5),
        {"w"},
    ),
    "looked-up positions, changed in place": (
        lambda p, x: x + F.embedding(torch.arange(6), p.w).mul_(x.new_tensor(2)),
        {"w": (8, 5)},
        (6, 5),
        {"w"},
    ),
    "parameter expanded inside the model": (lambda p, x: F.linear(x, p.w.expand(7, 5)), {"w": (1, 5)}, (5,), {"w"}),
    "convolution and an unknown use": (
        lambda p, x: F.conv1d(x, p.w, padding=1) * p.w.square().sum(),
        {"w": (4, 3, 3)},
        (3, 6),
        {"w"},
    ),
    "parameter of a custom autograd function": (
        lambda p, x: Cube.apply(F.linear(x, p.w)) * Cube.apply(p.s),
        {"w": (5, 5), "s": (5,)},
        (5,),
        {"s"},
    ),
    "x[mask] = value": (masked, {"w": (5, 5)}, (5,), {"w"}),
    "torch functions off": (with_mode_off, {"w": (5, 5)}, (5,), {"w"}),
    "buffer filled piece by piece": (filled, LINEAR, (6, 5), {"w", "b"}),
    "nested index": (lambda p, x: F.linear(x[:, [[0, 1], [2, 3]]], p.w, p.b), LINEAR, (6, 5), {"w", "b"}),
    "two index arrays": (
        lambda p, x: F.linear(x[:, torch.tensor([0, 1]), torch.tensor([1, 2])], p.w),
        {"w": (5, 2)},
        (6, 5),
        {"w"},
    ),
    "convolution of [T * N, C, L]": (
        lambda p, x: F.conv1d(x.transpose(0, 1).reshape(-1, 5, 1), p.w).view(6, -1, 5).transpose(0, 1),
        {"w": (5, 5, 1)},
        (6, 5),
        {"w"},
    ),
    "experts chosen per sample": (
        lambda p, x: torch.einsum("nd,ned->ne", x, p.w[(x[:, 0] > 0).long()]),
        {"w": (2, 4, 5)},
        (5,),
        {"w"},
    ),
    "distance to prototypes": (lambda p, x: torch.cdist(x, p.w), {"w": (6, 5)}, (5,), {"w"}),
    "bias of one element": (lambda p, x: F.linear(x, p.w, p.b), {"w": (5, 5), "b": (1,)}, (5,), {"w", "b"}),
    "samples mixed": (lambda p, x: F.linear(x - x.mean(0), p.w) + F.linear(x, p.w), {"w": (5, 5)}, (5,), {"w"}),
    "samples reversed and back": (lambda p, x: F.linear(x.flip(0), p.w).flip(0), {"w": (5, 5)}, (5,), {"w"}),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_use_falls_back_and_is_named(name: str) -> None:
    function, shapes, size, fallback = UNKNOWN[name]
    found = assert_fisher(lambda: Using(function, **shapes), randn(N, *size, seed=1), TARGETS, fallback=fallback)
    assert all(reason for reason in found.fallback.values())


REPEATED = {
    "weight": lambda p, x: F.linear(x, p.w.expand(4, 5)),
    "bias": lambda p, x: F.linear(x, p.v, p.w.sum(1).expand(6)),
    "sum over the repeats": lambda p, x: x * p.w.expand(6, 5).sum(0),
    "table": lambda p, x: F.embedding((x > 0).long(), p.w.expand(2, 5)),
    "tokens": lambda p, x: x + p.w.expand(6, 5),
    "matrix": lambda p, x: x @ p.w.expand(3, 5).mT,
    "einsum": lambda p, x: torch.einsum("...d,od->...o", x, p.w.expand(4, 5)),
    "layer norm": lambda p, x: F.layer_norm(x, (5,), p.v.mean(0), p.w.squeeze().sum().expand(5)),
    "class token": lambda p, x: torch.cat([x, p.w.expand(len(x), 1, 5)], 1),
}


@pytest.mark.parametrize("samples", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("name", REPEATED)
def test_repeats_that_happen_to_equal_the_batch_size(name: str, samples: int) -> None:
    """A parameter repeated inside the model must not be taken for one repeated for every sample."""
    build = lambda: Using(REPEATED[name], w=(1, 5), v=(6, 5))  # noqa: E731
    x, targets = randn(samples, 6, 5, seed=1), randn(samples, seed=9)
    model = prepared(build)
    found = fisher_diagonal(model, x, targets, loss=square_error)
    exact = prepared(build).double()
    expected, _ = batch_one_loop(exact, x.double(), targets.double(), square_error, torch.ones(1, samples))
    for key, value in expected.items():
        assert_close(found[key], value[0] + 0.0, name=key)


def test_a_model_that_writes_to_its_parameters_is_an_error() -> None:
    model = prepared(lambda: Using(lambda p, x: p.w.add_(x), w=(1, 5)))
    before = model.w.detach().clone()
    with pytest.raises(RuntimeError, match="a leaf Variable that requires grad is being used in an in-place operation"):
        fisher_diagonal(model, randn(1, 5, seed=1), TARGETS[:1], loss=square_error)
    assert torch.equal(model.w, before)


def test_an_operand_written_to_later_is_an_error() -> None:
    def forward(p: Any, x: Tensor) -> Tensor:
        h = F.linear(x, p.w)
        y = F.linear(h, p.v)
        h.add_(1)
        return y

    model = prepared(lambda: Using(forward, w=(5, 5), v=(5, 5)))
    with pytest.raises(RuntimeError, match=r"^an operand of `v` has been modified by an inplace operation"):
        fisher_diagonal(model, randn(N, 5, seed=1), TARGETS, loss=square_error)


SCALE = torch.linspace(0.5, 1.5, 5, requires_grad=True)


def own_leaf(p: Any, x: Tensor) -> Tensor:
    x = x.detach()
    x.requires_grad = True
    return F.linear(x, p.w, p.b)


# Tensors that require a gradient but are no parameters: nothing before the uses leads to one.
FOREIGN: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "requires_grad_": lambda p, x: F.linear(x.detach().requires_grad_(), p.w, p.b),
    "requires_grad set": own_leaf,
    "made with one": lambda p, x: F.linear(x + torch.ones(5, dtype=x.dtype, requires_grad=True), p.w, p.b),
    "buffer": lambda p, x: F.linear(x * p.scale, p.w, p.b),
}
# The same from outside, which might be anything.
UNSEEN: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "factor": lambda p, x: F.linear(x * SCALE, p.w, p.b),
    "factor after a use": lambda p, x: F.linear(F.linear(x, p.w) * SCALE, p.w, p.b),
    "factor beside a use": lambda p, x: F.linear(x, p.w) + F.linear(x * SCALE, p.w, p.b),
    "in place": lambda p, x: F.linear(x.clone().add_(SCALE), p.w, p.b),
    "matrix": lambda p, x: F.linear(F.linear(x, SCALE.to(x.dtype).expand(5, 5)), p.w, p.b),
}


class UsingBuffer(Using):
    """Has a buffer that requires a gradient as well."""

    def __init__(self, *args: Any, **shapes: Any) -> None:
        super().__init__(*args, **shapes)
        self.register_buffer("scale", torch.linspace(0.5, 1.5, 5).requires_grad_())


@pytest.mark.parametrize("name", [*FOREIGN, *UNSEEN])
def test_other_tensors_that_require_gradients(name: str) -> None:
    function = (FOREIGN | UNSEEN)[name]
    fallback = {"w", "b"} if name in UNSEEN else ()
    assert_fisher(lambda: UsingBuffer(function, w=(5, 5), b=(5,)), randn(N, 5, seed=1), TARGETS, fallback=fallback)
    assert SCALE.grad is None


def attention(**settings: Any) -> Callable[[], nn.Module]:
    return lambda: First(nn.MultiheadAttention(6, 2, **settings))


class SequenceFirst(nn.Module):
    """A module of [T, N, E] for inputs [N, T, E]."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.module(*(x.transpose(0, 1) for x in inputs)).transpose(0, 1)


X, MEMORY = randn(N, 5, 6, seed=1), randn(N, 7, 6, seed=2)


@pytest.mark.parametrize("settings", [{}, {"bias": False}, {"add_bias_kv": True}, {"add_zero_attn": True}], ids=str)
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("inputs", [(X, X, X), (X, MEMORY, MEMORY)], ids=["self", "cross"])
def test_multi_head_attention(inputs: tuple[Tensor, ...], batch_first: bool, settings: dict[str, Any]) -> None:
    build = attention(batch_first=batch_first, **settings)
    assert_fisher(build if batch_first else lambda: SequenceFirst(build()), inputs, TARGETS)


def test_multi_head_attention_with_other_key_and_value_sizes() -> None:
    inputs = (X, randn(N, 7, 4, seed=2), randn(N, 7, 3, seed=3))
    assert_fisher(attention(kdim=4, vdim=3, batch_first=True), inputs, TARGETS)


@pytest.mark.parametrize("padding_idx", [None, 2, -1])
def test_embedding(padding_idx: int | None) -> None:
    tokens = torch.tensor([[1, 1, 2, 5], [5, 5, 5, 5], [0, 2, 2, 3], [4, 3, 2, 1]])
    found = assert_fisher(lambda: nn.Embedding(6, 3, padding_idx=padding_idx), tokens, TARGETS)
    assert found["weight"][2].any() == (padding_idx != 2)
    assert_fisher(lambda: nn.Embedding(6, 3, padding_idx=padding_idx), tokens.int(), TARGETS)
    assert_fisher(lambda: nn.Embedding(6, 3, padding_idx=padding_idx), tokens[:, 0], TARGETS)


def test_embedding_bag_falls_back() -> None:
    tokens = torch.tensor([[1, 1, 2, 5], [5, 5, 5, 5], [0, 2, 2, 3], [4, 3, 2, 1]])
    assert_fisher(lambda: nn.EmbeddingBag(6, 3), tokens, TARGETS, fallback={"weight"})


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_fall_back(kind: type[nn.Module]) -> None:
    build = lambda: nn.Sequential(nn.Linear(3, 5), First(kind(5, 4, batch_first=True)), nn.Linear(4, 2))  # noqa: E731
    names = [name for name, _ in build().named_parameters()]
    assert_fisher(build, randn(N, 6, 3, seed=1), TARGETS, fallback=names)


@pytest.mark.parametrize("normalise", [parametrizations.weight_norm, parametrizations.spectral_norm])
@pytest.mark.parametrize("layer", [lambda: nn.Linear(5, 7), lambda: nn.Conv1d(5, 7, 3)])
def test_parametrised_weights_fall_back(layer: Callable[[], nn.Module], normalise: Callable[..., nn.Module]) -> None:
    build = lambda: normalise(layer())  # noqa: E731
    x = randn(N, 5, seed=1) if isinstance(layer(), nn.Linear) else randn(N, 5, 6, seed=1)
    names = {name for name, _ in build().named_parameters()} - {"bias"}
    assert_fisher(build, x, TARGETS, fallback=names)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_models_have_float32_results(dtype: torch.dtype) -> None:
    build = lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 4))  # noqa: E731
    x = randn(N, 3, 5, 5, seed=1)
    half = fisher_diagonal(prepared(build).to(dtype), x.to(dtype), TARGETS.to(dtype), loss=square_error)
    full = fisher_diagonal(prepared(build), x, TARGETS, loss=square_error)
    for name, value in half.items():
        assert value.dtype == torch.float32
        assert (value - full[name]).norm() < 0.05 * full[name].norm()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_default_eps_of_rms_norm_in_half_types(dtype: torch.dtype) -> None:
    """It is that of float32, in which PyTorch computes: with that of the half type, small inputs would vanish."""
    x = randn(N, 5, 6, dtype=dtype, seed=1) / 64
    half = fisher_diagonal(prepared(lambda: nn.RMSNorm(6)).to(dtype), x, TARGETS.to(dtype), loss=square_error)
    full = fisher_diagonal(prepared(lambda: nn.RMSNorm(6)), x.float(), TARGETS, loss=square_error)
    assert (half["weight"] - full["weight"]).norm() < 0.05 * full["weight"].norm()


def test_float64_models_have_float64_results() -> None:
    build = lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Flatten(), nn.Linear(72, 4))  # noqa: E731
    x = randn(N, 3, 5, 5, seed=1)
    double = fisher_diagonal(prepared(build).double(), x.double(), TARGETS.double(), loss=square_error)
    full = fisher_diagonal(prepared(build), x, TARGETS, loss=square_error)
    for name, value in double.items():
        assert value.dtype == torch.float64
        assert (value - full[name]).norm() < 1e-5 * full[name].norm()


def test_autocast_is_followed() -> None:
    build = lambda: nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.LayerNorm(8), nn.Linear(8, 4))  # noqa: E731
    x = randn(N, 5, seed=1)
    full = fisher_diagonal(prepared(build), x, TARGETS, loss=square_error)
    with torch.autocast("cpu", torch.bfloat16):
        found = fisher_diagonal(prepared(build), x, TARGETS, loss=square_error)
    assert found.fallback == {}
    for name, value in found.items():
        assert (value - full[name]).norm() < 0.1 * full[name].norm()
