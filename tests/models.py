"""Small models of every family. Each is listed with its inputs, and returns logits [N, 4]."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from cases import randn
from torch import Tensor, nn

N = 5
LABELS = torch.tensor([0, 3, 1, 1, 2])


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(9, 16), nn.ReLU(inplace=True), nn.Linear(16, 12), nn.GELU(), nn.Linear(12, 4))


class Block(nn.Module):
    """Basic block of a residual network, with in-place functions only."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.relu = nn.ReLU(inplace=True)
        self.down = nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += self.down(x)
        return self.relu(out)


def resnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        Block(8, 8, 1), Block(8, 16, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4),
    )  # fmt: skip


class ViT(nn.Module):
    """Vision transformer with class token, positions, written-out attention and layer scale."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 12))
        self.positions = nn.Parameter(torch.randn(1, 5, 12))
        self.norm1, self.norm2, self.norm = nn.LayerNorm(12), nn.LayerNorm(12), nn.LayerNorm(12)
        self.qkv, self.out = nn.Linear(12, 36), nn.Linear(12, 12)
        self.mlp = nn.Sequential(nn.Linear(12, 24), nn.GELU(), nn.Dropout(0.1), nn.Linear(24, 12))
        self.scale = nn.Parameter(torch.rand(12))
        self.head = nn.Linear(12, 4)

    def attend(self, x: Tensor) -> Tensor:
        n, t, d = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, 3, d // 3).permute(2, 0, 3, 1, 4).unbind(0)
        weights = ((q * 4**-0.5) @ k.transpose(-2, -1)).softmax(dim=-1)
        return self.out((weights @ v).transpose(1, 2).reshape(n, t, d))

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.token.expand(x.shape[0], -1, -1), x), dim=1) + self.positions
        x = x + self.scale * self.attend(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return self.head(self.norm(x)[:, 0])


class Bert(nn.Module):
    """Encoder with three embeddings, masked attention with separate projections, and a tied decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(11, 12, padding_idx=0)
        self.positions, self.types = nn.Embedding(8, 12), nn.Embedding(2, 12)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(12), nn.LayerNorm(12), nn.LayerNorm(12)
        self.query, self.key, self.value, self.out = (nn.Linear(12, 12) for _ in range(4))
        self.up, self.down, self.transform = nn.Linear(12, 20), nn.Linear(20, 12), nn.Linear(12, 12)
        self.decoder = nn.Linear(12, 11)
        self.decoder.weight = self.words.weight
        self.register_buffer("position_ids", torch.arange(8)[None])

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> dict[str, Any]:
        n, t = input_ids.shape
        types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        x = self.words(input_ids) + self.positions(self.position_ids[:, :t]) + self.types(types)
        x = F.dropout(self.norm1(x), 0.1, self.training)
        q, k, v = (f(x).view(n, t, 2, 6).transpose(1, 2) for f in (self.query, self.key, self.value))
        bias = (1.0 - attention_mask[:, None, None, :].to(x.dtype)) * -1e4
        x = self.norm2(x + self.out(F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(2)))
        x = self.norm3(x + self.down(F.gelu(self.up(x))))
        return {"logits": self.decoder(torch.tanh(self.transform(x[:, 0]))), "hidden": x}


class TransformerClassifier(nn.Module):
    """nn.TransformerEncoder over [N, T, E], or with the sequence first."""

    def __init__(self, *, batch_first: bool, norm_first: bool) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, 0.1, batch_first=batch_first, norm_first=norm_first)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 4)
        self.batch_first = batch_first

    def forward(self, x: Tensor) -> Tensor:
        if self.batch_first:
            return self.head(self.encoder(x).mean(1))
        return self.head(self.encoder(x.transpose(0, 1)).mean(0))


class Permute(nn.Module):
    """Permutes the dimensions."""

    def __init__(self, *dims: int) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(*self.dims)


class ConvNeXtBlock(nn.Module):
    """Block with depthwise convolution, channels-last norm, MLP and layer scale."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(6, 6, 5, padding=2, groups=6), Permute(0, 2, 3, 1), nn.LayerNorm(6), nn.Linear(6, 12), nn.GELU(),
            nn.Linear(12, 6), Permute(0, 3, 1, 2),
        )  # fmt: skip
        self.gamma = nn.Parameter(torch.rand(6, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gamma * self.body(x)


def convnext() -> nn.Module:
    stem = nn.Conv2d(3, 6, 2, 2)
    return nn.Sequential(stem, ConvNeXtBlock(), ConvNeXtBlock(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))


class UNet(nn.Module):
    """U-Net: transposed convolution and interpolation on the way up, concatenated skips."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.GroupNorm(2, 6), nn.SiLU(inplace=True))
        self.up = nn.ConvTranspose2d(6, 4, 4, 2, 1)
        self.out = nn.Conv2d(13, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        low = self.down(x)
        high = F.interpolate(low, scale_factor=2, mode="bilinear", align_corners=False)
        return self.out(torch.cat([x, self.up(low), high], 1)).mean((2, 3))


class Video(nn.Module):
    """Applies a convolution to the frames of [N, T, C, H, W], then one over time."""

    def __init__(self) -> None:
        super().__init__()
        self.frame = nn.Sequential(
            nn.Conv2d(3, 6, 3, 2), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.time = nn.Conv1d(6, 4, 2)

    def forward(self, x: Tensor) -> Tensor:
        n, t = x.shape[:2]
        return self.time(self.frame(x.reshape(n * t, *x.shape[2:])).view(n, t, -1).transpose(1, 2)).amax(2)


class TwoInputs(nn.Module):
    """Takes an image, numbers, and a setting that is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.numbers = nn.Conv2d(3, 4, 3), nn.Linear(2, 4)

    def forward(self, image: Tensor, numbers: Tensor, power: int = 1) -> Tensor:
        return self.image(image).mean((2, 3)) * self.numbers(numbers).sigmoid() ** power


class Recurrent(nn.Module):
    """A recurrent loop written by hand: each step uses the same weights."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.state, self.head = nn.Linear(3, 6), nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros_like(x[:, 0, :1]).expand(-1, 6)
        for t in range(x.shape[1]):
            h = torch.tanh(self.inside(x[:, t]) + self.state(h))
        return self.head(h)


IMAGES = randn(N, 3, 8, 8, seed=1)
TOKENS = torch.tensor([[2, 3, 3, 1, 0], [1, 1, 1, 1, 1], [4, 5, 6, 7, 8], [9, 10, 2, 0, 0], [3, 2, 0, 0, 0]])
MODELS: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "mlp": (mlp, randn(N, 9, seed=1)),
    "resnet": (resnet, IMAGES),
    "vit": (ViT, IMAGES),
    "bert": (Bert, {"input_ids": TOKENS, "attention_mask": (TOKENS != 0).long()}),
    "transformer": (lambda: TransformerClassifier(batch_first=True, norm_first=False), randn(N, 6, 8, seed=1)),
    "transformer, sequence first": (
        lambda: TransformerClassifier(batch_first=False, norm_first=True),
        randn(N, 6, 8, seed=1),
    ),
    "convnext": (convnext, IMAGES),
    "u-net": (UNet, IMAGES),
    "video": (Video, randn(N, 4, 3, 7, 7, seed=1)),
    "tuple": (TwoInputs, (IMAGES, randn(N, 2, seed=2), 2)),
    "dict": (TwoInputs, {"numbers": randn(N, 2, seed=2), "image": IMAGES, "power": 3}),
    "recurrent": (Recurrent, randn(N, 4, 3, seed=1)),
}


def logits(outputs: Any) -> Tensor:
    return outputs["logits"] if isinstance(outputs, dict) else outputs


def loss(outputs: Any, targets: Tensor) -> Tensor:
    """Return the cross-entropy of each sample."""
    return F.cross_entropy(logits(outputs), targets, reduction="none")
