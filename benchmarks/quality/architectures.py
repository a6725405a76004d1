"""The networks of the quality tables: the paper's MLP, residual networks, small transformers for images and text."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastforget.demo.models import Block


def mlp(pixels: int, num_classes: int) -> nn.Sequential:
    """Build the network of the one-shot paper for MNIST, with 1000 hidden units and sigmoid."""
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, 1000), nn.Sigmoid(), nn.Linear(1000, num_classes))


def resnet(channels: int, widths: Sequence[int], num_classes: int) -> nn.Sequential:
    """Build a residual network with a block for each width. Each block but the first halves the image size."""
    layers: list[nn.Module] = [
        nn.Conv2d(channels, widths[0], 3, 1, 1, bias=False),
        nn.BatchNorm2d(widths[0]),
        nn.ReLU(),
    ]
    inner = widths[0]
    for number, width in enumerate(widths):
        layers.append(Block(inner, width, 2 if number else 1))
        inner = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inner, num_classes))


class ViT(nn.Module):
    """A vision transformer (Dosovitskiy et al., ICLR 2021) with a class token and normalisation before each layer.

    Args:
        channels: Number of channels of the images.
        size: Height and width of the images.
        num_classes: The number of classes, C.
        patch: Height and width of a patch.
        dim: Number of features of a token.
        depth: Number of layers.
    """

    def __init__(self, channels: int, size: int, num_classes: int, patch: int = 4, dim: int = 64, depth: int = 4):
        super().__init__()
        self.patches = nn.Conv2d(channels, dim, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, dim))
        self.positions = nn.Parameter(0.02 * torch.randn(1, (size // patch) ** 2 + 1, dim))
        self.layers = nn.Sequential(*(encoder_layer(dim) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits [N, C] of images [N, channels, size, size]."""
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], 1) + self.positions
        return self.head(self.norm(self.layers(tokens)[:, 0]))


class TextTransformer(nn.Module):
    """A text classifier: a transformer encoder whose features are averaged over all tokens but padding.

    Args:
        vocabulary: Number of different tokens; token 0 is padding.
        length: Number of tokens of a text.
        num_classes: The number of classes, C.
        dim: Number of features of a token.
        depth: Number of layers.
    """

    def __init__(self, vocabulary: int, length: int, num_classes: int, dim: int = 64, depth: int = 2):
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, dim)
        self.positions = nn.Parameter(0.02 * torch.randn(length, dim))
        self.layers = nn.ModuleList(encoder_layer(dim) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits [N, C] of token numbers, int64 [N, length]."""
        padding, features = x == 0, self.tokens(x) + self.positions
        for layer in self.layers:
            features = layer(features, src_key_padding_mask=padding)
        visible = (~padding).unsqueeze(2)
        return self.head((self.norm(features) * visible).sum(1) / visible.sum(1))


def encoder_layer(dim: int) -> nn.TransformerEncoderLayer:
    """Build a transformer layer with normalisation before each part, without dropout."""
    return nn.TransformerEncoderLayer(dim, 4, 2 * dim, 0.0, "gelu", batch_first=True, norm_first=True)
