"""The models of the rows, and smaller ones for the smoke mode."""

from __future__ import annotations

import networks
import torch
from gpu.measuring import Bench
from torch import Tensor, nn

Model = tuple[nn.Module, Tensor, Tensor]


def images(bench: Bench, size: int, batch: int, classes: int) -> tuple[Tensor, Tensor]:
    labels = torch.arange(batch, device=bench.device) % classes
    return bench.randn(batch, 3, size, size), labels


def residual(bench: Bench) -> nn.Sequential:
    """Return ResNet-18 for small images, with its head last."""
    torch.manual_seed(0)
    if not bench.small:
        return networks.resnet18_cifar()
    blocks = (networks.BasicBlock(3, 8, 1), networks.BasicBlock(8, 16, 2))
    return networks.settled(nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 10)))


def resnet(bench: Bench) -> Model:
    return residual(bench), *images(bench, 32, 4 if bench.small else 128, 10)


def vit(bench: Bench) -> Model:
    torch.manual_seed(0)
    if bench.small:
        return networks.settled(networks.ViT(32, 8, 32, 2, 2, 10)), *images(bench, 32, 3, 10)
    return networks.vit_base(), *images(bench, 224, 64, 1000)


def bert(bench: Bench) -> Model:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    batch, length, words = (3, 9, 50) if bench.small else (64, 128, 30522)
    model = networks.BertEncoder(words, 32, 2, 2, 2) if bench.small else networks.bert_base()
    tokens = torch.randint(words, (batch, length), generator=generator)
    return networks.settled(model), tokens.to(bench.device), torch.arange(batch, device=bench.device) % 2


MODELS = {"ResNet-18 CIFAR b128": (resnet, "tf32"), "ViT-B/16 b64": (vit, "bf16"), "BERT-base 128 b64": (bert, "bf16")}
