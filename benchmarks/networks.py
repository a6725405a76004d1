"""Networks that the benchmarks time, in the sizes that people run, with random weights and running statistics."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BasicBlock(nn.Module):
    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        same = stride == 1 and channels_in == channels
        self.shortcut = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))
        )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        y += self.shortcut(x)
        return F.relu(y, inplace=True)


def resnet18_cifar(num_classes: int = 10) -> nn.Module:
    """ResNet-18 with a 3x3 stem for 32x32 images, 11.2M parameters."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    width = 64
    for channels, stride in ((64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)):
        layers.append(BasicBlock(width, channels, stride))
        width = channels
    return settled(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, num_classes)))


def resnet18_imagenet(num_classes: int = 1000) -> nn.Sequential:
    """ResNet-18 for 224x224 images, 11.7M parameters, with its head last."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    layers.append(nn.MaxPool2d(3, 2, 1))
    width = 64
    for channels, stride in ((64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)):
        layers.append(BasicBlock(width, channels, stride))
        width = channels
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, num_classes))
    settled(model)
    return model


def vgg16_bn_cifar(num_classes: int = 10) -> nn.Module:
    """VGG-16 with batch norm for 32x32 images and one linear layer, 14.7M parameters."""
    layers: list[nn.Module] = []
    width = 3
    for repeats, channels in ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)):
        for _ in range(repeats):
            layers += [nn.Conv2d(width, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
            width = channels
        layers.append(nn.MaxPool2d(2))
    return settled(nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, num_classes)))


def mlp() -> nn.Module:
    """784-1024-1024-10, 1.9M parameters."""
    return settled(
        nn.Sequential(nn.Linear(784, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10))
    )


class PreNormBlock(nn.Module):
    """Attention and MLP of a vision transformer, each behind a layer norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """Vision transformer with a class token and learned positions."""

    def __init__(self, size: int, patch: int, width: int, depth: int, heads: int, num_classes: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, (size // patch) ** 2 + 1, width))
        self.blocks = nn.Sequential(*[PreNormBlock(width, heads) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        return self.head(self.norm(self.blocks(x))[:, 0])


def vit_tiny_cifar() -> nn.Module:
    """ViT-Tiny for 32x32 images in patches of 4: 65 tokens, 5.4M parameters."""
    return settled(ViT(32, 4, 192, 12, 3, 10))


def vit_base() -> nn.Module:
    """ViT-B/16 at 224: 197 tokens, 86.6M parameters."""
    return settled(ViT(224, 16, 768, 12, 12, 1000))


class PostNormBlock(nn.Module):
    """A layer of BERT: separate projections, a layer norm after each residual sum."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.query, self.key, self.value))
        x = self.norm1(x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)))
        return self.norm2(x + self.down(F.gelu(self.up(x))))


class BertEncoder(nn.Module):
    """Words and positions, twelve layers, a pooler and a classifier."""

    def __init__(self, vocabulary: int, width: int, depth: int, heads: int, num_classes: int) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(512, width)
        self.norm = nn.LayerNorm(width)
        self.layers = nn.Sequential(*[PostNormBlock(width, heads) for _ in range(depth)])
        self.pooler, self.head = nn.Linear(width, width), nn.Linear(width, num_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.norm(self.words(tokens) + self.positions(positions))
        return self.head(torch.tanh(self.pooler(self.layers(x)[:, 0])))


def bert_base() -> nn.Module:
    """An encoder like BERT-base with 109M parameters, for classification in two."""
    return settled(BertEncoder(30522, 768, 12, 12, 2))


class InvertedResidual(nn.Module):
    """MobileNetV2: widen, depthwise convolution, narrow."""

    def __init__(self, channels_in: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = channels_in * expansion
        wider = [] if expansion == 1 else [nn.Conv2d(channels_in, width, 1, bias=False), nn.BatchNorm2d(width)]
        self.body = nn.Sequential(
            *wider, *([nn.ReLU6(inplace=True)] if wider else []),
            nn.Conv2d(width, width, 3, stride, 1, groups=width, bias=False), nn.BatchNorm2d(width),
            nn.ReLU6(inplace=True), nn.Conv2d(width, channels, 1, bias=False), nn.BatchNorm2d(channels),
        )  # fmt: skip
        self.residual = stride == 1 and channels_in == channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


def mobilenet_v2_cifar(num_classes: int = 10) -> nn.Module:
    """MobileNetV2 without its first strides, for 32x32 images, 2.2M parameters."""
    layers: list[nn.Module] = [nn.Conv2d(3, 32, 3, 1, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6(inplace=True)]
    width = 32
    stages = (1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)
    for expansion, channels, repeats, stride in stages:
        for index in range(repeats):
            layers.append(InvertedResidual(width, channels, stride if index == 0 else 1, expansion))
            width = channels
    layers += [nn.Conv2d(width, 1280, 1, bias=False), nn.BatchNorm2d(1280), nn.ReLU6(inplace=True)]
    return settled(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, num_classes)))


class Permute(nn.Module):
    """A permutation of the dimensions."""

    def __init__(self, *dims: int) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(*self.dims)


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution, then a layer norm and an MLP with channels last, and layer scale."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 7, padding=3, groups=channels), Permute(0, 2, 3, 1), nn.LayerNorm(channels),
            nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels), Permute(0, 3, 1, 2),
        )  # fmt: skip
        self.scale = nn.Parameter(torch.full((channels, 1, 1), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.body(x)


def convnext_tiny(num_classes: int = 10) -> nn.Module:
    """ConvNeXt-Tiny, 27.8M parameters; used at 64x64."""

    def norm(channels: int) -> list[nn.Module]:
        return [Permute(0, 2, 3, 1), nn.LayerNorm(channels), Permute(0, 3, 1, 2)]

    layers = [nn.Conv2d(3, 96, 4, 4), *norm(96)]
    width = 96
    for channels, depth in ((96, 3), (192, 3), (384, 9), (768, 3)):
        if channels != width:
            layers += [*norm(width), nn.Conv2d(width, channels, 2, 2)]
            width = channels
        layers += [ConvNeXtBlock(channels) for _ in range(depth)]
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(width), nn.Linear(width, num_classes))
    return settled(nn.Sequential(*layers, *head))


def settled(model: nn.Module) -> nn.Module:
    """Give batch norms statistics as after training; set eval mode."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return model.eval()
