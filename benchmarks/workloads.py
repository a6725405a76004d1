"""The networks that are timed, each with its batch size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import networks
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Workload:
    """A network with inputs of its size: images, numbers, or tokens where ``vocabulary`` is set."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    batch: int
    classes: int = 10
    vocabulary: int = 0
    quick: bool = False  # small enough for a smoke run

    def model(self) -> nn.Module:
        """Return the network in eval mode, the same each time."""
        torch.manual_seed(0)
        return self.build()

    def samples(self, batch: int) -> tuple[Tensor, Tensor]:
        """Return inputs [N, *shape] and labels [N]. A smaller batch is the beginning of a larger one."""
        generator = torch.Generator().manual_seed(0)
        targets = torch.randint(self.classes, (self.batch,), generator=generator)[:batch]
        size = (self.batch, *self.shape)
        if self.vocabulary:
            return torch.randint(self.vocabulary, size, generator=generator)[:batch], targets
        return torch.randn(size, generator=generator)[:batch], targets


WORKLOADS = {
    "resnet18-cifar b32": Workload(networks.resnet18_cifar, (3, 32, 32), 32),
    "resnet18-cifar b128": Workload(networks.resnet18_cifar, (3, 32, 32), 128),
    "vgg16-bn-cifar b32": Workload(networks.vgg16_bn_cifar, (3, 32, 32), 32),
    "vit-tiny-cifar b32": Workload(networks.vit_tiny_cifar, (3, 32, 32), 32),
    "vit-b16-224 b4": Workload(networks.vit_base, (3, 224, 224), 4, classes=1000),
    "bert-base-128 b8": Workload(networks.bert_base, (128,), 8, classes=2, vocabulary=30522),
    "mlp-784-1024-1024-10 b512": Workload(networks.mlp, (784,), 512, quick=True),
    "mobilenetv2-cifar b32": Workload(networks.mobilenet_v2_cifar, (3, 32, 32), 32, quick=True),
    "convnext-tiny-64 b8": Workload(networks.convnext_tiny, (3, 64, 64), 8),
}
