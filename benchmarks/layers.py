"""Layers and uses of parameters for the coverage matrix: what real networks do, as small as possible."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from networks import BasicBlock, ConvNeXtBlock, InvertedResidual, PostNormBlock, PreNormBlock
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

N = 4


class Case(NamedTuple):
    """A module and inputs for it, [N, ...]."""

    build: Callable[[], nn.Module]
    inputs: Tensor
    dtype: torch.dtype = torch.float32


class Using(nn.Module):
    """A module that runs a function of itself and its inputs; bare parameters and layers are its attributes."""

    def __init__(self, function: Callable[..., Tensor], **parts: tuple[int, ...] | nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part if isinstance(part, nn.Module) else nn.Parameter(0.5 * torch.randn(part)))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def numbers(*shape: int) -> Tensor:
    return torch.randn((N, *shape), generator=torch.Generator().manual_seed(1))


TOKENS = torch.tensor([[1, 1, 2, 5], [5, 5, 5, 5], [0, 2, 2, 3], [4, 3, 2, 1]])


def layer(build: Callable[[], nn.Module], *shape: int) -> Case:
    return Case(build, numbers(*shape))


def use(function: Callable[[Any, Tensor], Tensor], *shape: int, **parts: Any) -> Case:
    """Return a case. Layers are given as functions that make them, so that every build makes new ones."""
    return layer(
        lambda: Using(function, **{n: part() if callable(part) else part for n, part in parts.items()}), *shape
    )


def in_place_residual(m: Any, x: Tensor) -> Tensor:
    y = m.inside(x)
    y += x
    return m.outside(y)


def own_recurrence(m: Any, x: Tensor) -> Tensor:
    h = x.new_zeros(len(x), 6)
    for t in range(x.shape[1]):
        h = torch.tanh(m.inside(x[:, t]) + m.state(h))
    return h


def frames(m: Any, x: Tensor) -> Tensor:
    return m.conv(x.flatten(0, 1)).unflatten(0, x.shape[:2])


class Cube(torch.autograd.Function):
    """A user's own function, which a torch function mode does not see."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return 3 * ctx.saved_tensors[0] ** 2 * grads[0]


LAYERS = {
    "Linear": layer(lambda: nn.Linear(5, 7), 5),
    "Linear without bias": layer(lambda: nn.Linear(5, 7, bias=False), 5),
    "Linear on [N, T, D]": layer(lambda: nn.Linear(5, 7), 6, 5),
    "Linear on [N, H, W, D]": layer(lambda: nn.Linear(5, 7), 2, 3, 5),
    "Bilinear": use(lambda m, x: m.layer(x, x), 5, layer=lambda: nn.Bilinear(5, 5, 3)),
    "Conv1d": layer(lambda: nn.Conv1d(3, 5, 3), 3, 9),
    "Conv2d": layer(lambda: nn.Conv2d(3, 5, 3, padding=1), 3, 6, 7),
    "Conv2d, stride": layer(lambda: nn.Conv2d(3, 5, (3, 2), (2, 1)), 3, 6, 7),
    "Conv2d, dilation": layer(lambda: nn.Conv2d(3, 5, 3, padding=2, dilation=2), 3, 6, 7),
    "Conv2d, groups": layer(lambda: nn.Conv2d(4, 12, 3, groups=2), 4, 6, 7),
    "Conv2d, depthwise": layer(lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4), 4, 6, 7),
    'Conv2d, padding="same"': layer(lambda: nn.Conv2d(3, 5, 3, padding="same"), 3, 6, 7),
    'Conv2d, padding="valid"': layer(lambda: nn.Conv2d(3, 5, 3, padding="valid"), 3, 6, 7),
    "Conv2d, padding reflected": layer(lambda: nn.Conv2d(3, 5, 3, padding=1, padding_mode="reflect"), 3, 6, 7),
    "Conv2d, padding circular": layer(lambda: nn.Conv2d(3, 5, 3, padding=1, padding_mode="circular"), 3, 6, 7),
    "Conv3d": layer(lambda: nn.Conv3d(3, 5, (2, 3, 3), (1, 2, 1)), 3, 4, 5, 6),
    "ConvTranspose1d": layer(lambda: nn.ConvTranspose1d(3, 5, 4, 3, 1), 3, 7),
    "ConvTranspose2d": layer(lambda: nn.ConvTranspose2d(3, 5, 3, 2, 1, 1), 3, 5, 6),
    "ConvTranspose2d, groups": layer(lambda: nn.ConvTranspose2d(4, 6, 3, 2, groups=2), 4, 5, 6),
    "BatchNorm1d, eval mode": layer(lambda: nn.BatchNorm1d(6), 6),
    "BatchNorm2d, eval mode": layer(lambda: nn.BatchNorm2d(6), 6, 4, 5),
    "GroupNorm": layer(lambda: nn.GroupNorm(2, 6), 6, 4, 5),
    "LayerNorm": layer(lambda: nn.LayerNorm(6), 6),
    "LayerNorm on [N, T, D]": layer(lambda: nn.LayerNorm(6), 5, 6),
    "RMSNorm": layer(lambda: nn.RMSNorm(6), 5, 6),
    "InstanceNorm2d, affine": layer(lambda: nn.InstanceNorm2d(3, affine=True), 3, 4, 5),
    "Embedding, tokens repeated": Case(lambda: nn.Embedding(6, 3), TOKENS),
    "Embedding, padding_idx": Case(lambda: nn.Embedding(6, 3, padding_idx=2), TOKENS),
    "EmbeddingBag": Case(lambda: nn.EmbeddingBag(6, 3), TOKENS),
    "PReLU": layer(lambda: nn.PReLU(3), 3, 4),
    "LSTM": use(lambda m, x: m.layer(x)[0], 6, 3, layer=lambda: nn.LSTM(3, 4, batch_first=True)),
    "GRU": use(lambda m, x: m.layer(x)[0], 6, 3, layer=lambda: nn.GRU(3, 4, batch_first=True)),
    "MultiheadAttention": use(
        lambda m, x: m.layer(x, x, x, need_weights=False)[0],
        *(5, 6),
        layer=lambda: nn.MultiheadAttention(6, 2, batch_first=True),
    ),
    "TransformerEncoderLayer": layer(lambda: nn.TransformerEncoderLayer(6, 2, 8, batch_first=True), 5, 6),
    "Linear, weight_norm": layer(lambda: parametrizations.weight_norm(nn.Linear(5, 7)), 5),
    "Conv2d, spectral_norm": layer(lambda: parametrizations.spectral_norm(nn.Conv2d(3, 5, 3)), 3, 5, 5),
}

BLOCKS = {
    "ResNet block, in place": layer(lambda: BasicBlock(3, 6, 2), 3, 6, 6),
    "MobileNetV2 block": layer(lambda: InvertedResidual(4, 4, 1, 3), 4, 6, 6),
    "Squeeze-and-excitation": use(
        lambda m, x: x * m.up(F.relu(m.down(x.mean((2, 3), keepdim=True)))).sigmoid(),
        *(6, 5, 5),
        down=lambda: nn.Conv2d(6, 2, 1),
        up=lambda: nn.Conv2d(2, 6, 1),
    ),
    "ConvNeXt block": layer(lambda: ConvNeXtBlock(6), 6, 8, 8),
    "ViT block": layer(lambda: PreNormBlock(8, 2), 5, 8),
    "BERT layer": layer(lambda: PostNormBlock(8, 2), 5, 8),
    "Tied embedding and decoder": Case(
        lambda: Using(lambda m, x: F.linear(m.words(x).tanh(), m.words.weight), words=nn.Embedding(6, 3)), TOKENS
    ),
}

USES = {
    "Layer used twice": use(lambda m, x: m.layer(m.layer(x).tanh()), 5, layer=lambda: nn.Linear(5, 5)),
    "Layer used twice, [N, T, D]": use(lambda m, x: m.layer(m.layer(x).tanh()), 6, 5, layer=lambda: nn.Linear(5, 5)),
    "Convolution used twice": use(
        lambda m, x: m.layer(m.layer(x).tanh()), 3, 6, 6, layer=lambda: nn.Conv2d(3, 3, 3, padding=1)
    ),
    "Own recurrence": use(own_recurrence, 4, 3, inside=lambda: nn.Linear(3, 6), state=lambda: nn.Linear(6, 6)),
    "Residual sum in place": use(in_place_residual, 5, inside=lambda: nn.Linear(5, 5), outside=lambda: nn.Linear(5, 3)),
    "ReLU in place": layer(lambda: nn.Sequential(nn.Linear(5, 7), nn.ReLU(inplace=True), nn.Linear(7, 3)), 5),
    "Bare scale": use(lambda m, x: m.scale * x.tanh(), 3, 4, 5, scale=(3, 1, 1)),
    "Bare shift": use(lambda m, x: (x + m.shift).sin(), 6, 5, shift=(5,)),
    "Class token": use(lambda m, x: torch.cat([m.token.expand(len(x), -1, -1), x], 1), 6, 5, token=(1, 1, 5)),
    "Positional embedding": use(lambda m, x: (x + m.positions[:, :6]).tanh(), 6, 5, positions=(1, 9, 5)),
    "Position table": use(lambda m, x: (x + m.table(torch.arange(6))).tanh(), 6, 5, table=lambda: nn.Embedding(8, 5)),
    "F.linear": use(lambda m, x: F.linear(x, m.w, m.b), 6, 5, w=(7, 5), b=(7,)),
    "F.conv2d": use(lambda m, x: F.conv2d(x, m.w, m.b, 2, 1), 3, 6, 7, w=(4, 3, 3, 3), b=(4,)),
    "x @ W": use(lambda m, x: x @ m.w, 6, 5, w=(5, 7)),
    "GPT-2's Conv1D (addmm)": use(
        lambda m, x: torch.addmm(m.b, x.flatten(0, 1), m.w).unflatten(0, x.shape[:2]), 6, 5, w=(5, 7), b=(7,)
    ),
    "einsum": use(lambda m, x: torch.einsum("ntd,do->nto", x, m.w), 6, 5, w=(5, 7)),
    "Standardised weight": use(lambda m, x: F.linear(x, (m.w - m.w.mean()) / m.w.std()), 5, w=(7, 5)),
    "Distance to prototypes": use(lambda m, x: torch.cdist(x, m.w), 5, w=(6, 5)),
    "Experts stacked": use(lambda m, x: torch.stack([F.linear(x, w) for w in m.w], 1), 5, w=(3, 4, 5)),
    "Convolution of frames [N * T]": use(frames, 5, 3, 6, 7, conv=lambda: nn.Conv2d(3, 4, 3)),
    "Sequence first": use(lambda m, x: m.layer(x.transpose(0, 1)).transpose(0, 1), 6, 5, layer=lambda: nn.Linear(5, 7)),
    "Custom autograd function": use(
        lambda m, x: m.second(Cube.apply(m.first(x))), 5, first=lambda: nn.Linear(5, 5), second=lambda: nn.Linear(5, 3)
    ),
    "Activation checkpointing": use(
        lambda m, x: checkpoint(lambda y: m.second(m.first(y).tanh()), x, use_reentrant=False),
        5,
        first=lambda: nn.Linear(5, 5),
        second=lambda: nn.Linear(5, 3),
    ),
    "Channels last": Case(
        lambda: nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 4, 3)).to(
            memory_format=torch.channels_last
        ),
        numbers(3, 7, 7).to(memory_format=torch.channels_last),
    ),
    "bfloat16": Case(
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 4)),
        numbers(3, 5, 5),
        torch.bfloat16,
    ),
}

CASES = LAYERS | BLOCKS | USES
