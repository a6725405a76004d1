"""The demo's classifier: a small residual network with batch normalisation (He et al., CVPR 2016)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """Two 3×3 convolutions and a shortcut past them. Where the shape changes, the shortcut is a 1×1 convolution.

    Args:
        inner: Number of input channels.
        outer: Number of output channels.
        stride: The stride of the first convolution.
    """

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv1: nn.Conv2d = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.norm1: nn.BatchNorm2d = nn.BatchNorm2d(outer)
        self.conv2: nn.Conv2d = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.norm2: nn.BatchNorm2d = nn.BatchNorm2d(outer)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inner != outer:
            self.shortcut = nn.Sequential(nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer))

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block.

        Args:
            x: [N, inner, height, width].

        Returns:
            [N, outer, height / stride, width / stride], rounded up.
        """
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


def small_resnet(*, width: int = 16, num_classes: int = 10, seed: int = 0) -> nn.Sequential:
    """Build the network: a stem, then three blocks of `width`, 2·`width` and 4·`width` channels.

    Args:
        width: Number of channels of the first block; 16 gives 78,000 parameters.
        num_classes: The number of classes, C.
        seed: The seed of the initial weights. The global random state does not change.

    Returns:
        The network. It takes images of one channel and at least 4×4 pixels.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            Block(width, width, 1),
            Block(width, 2 * width, 2),
            Block(2 * width, 4 * width, 2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4 * width, num_classes),
        )
