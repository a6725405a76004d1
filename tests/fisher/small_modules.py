"""Small modules for single layers and single uses of a parameter, and targets for them."""

from collections.abc import Callable
from typing import Any

import torch
from cases import randn
from torch import Tensor, nn

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


class Prototypes(nn.Module):
    """Distances to points, for which there is no kernel."""

    def __init__(self, inputs: int, points: int) -> None:
        super().__init__()
        self.points = nn.Parameter(torch.randn(points, inputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cdist(x, self.points)


LINEAR = {"w": (5, 5), "b": (5,)}


class Cube(torch.autograd.Function):
    """A user's function that torch functions do not see."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return 3 * ctx.saved_tensors[0] ** 2 * grads[0]
