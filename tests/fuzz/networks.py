"""Small networks that the fuzz tests draw: descriptions of layers, and layers that torch.nn lacks."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from fuzz.draws import Case, Memory, integers
from torch import Tensor, nn

FUNCTIONS = {
    "x + p": lambda x, p: x + p,
    "p + x": lambda x, p: p + x,
    "x * p": lambda x, p: x * p,
    "p * x": lambda x, p: p * x,
}


class Layer:
    """A description of a module, printed as a call. Modules inside it are described likewise."""

    def __init__(self, kind: str, *args: Any, **settings: Any) -> None:
        self.kind, self.args, self.settings = kind, args, settings

    def __repr__(self) -> str:
        given = [repr(self.kind), *map(repr, self.args), *(f"{k}={v!r}" for k, v in self.settings.items())]
        return f"Layer({', '.join(given)})"

    def build(self) -> nn.Module:
        kind = globals().get(self.kind) or getattr(nn, self.kind)
        return kind(*(a.build() if isinstance(a, Layer) else a for a in self.args), **self.settings)

    def holds(self, *kinds: str) -> bool:
        """Return whether this layer, or one inside it, is of one of these kinds."""
        return self.kind.startswith(kinds) or any(a.holds(*kinds) for a in self.args if isinstance(a, Layer))


class Matrix(nn.Module):
    """Computes ``x @ w``."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inside, outside))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


class Conv1D(nn.Module):
    """Computes ``torch.addmm`` on [N * T, I], as GPT-2 does."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(inside, outside)), nn.Parameter(torch.empty(outside))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.reshape(-1, x.shape[-1]), self.weight).view(*x.shape[:-1], -1)


class Tied(nn.Module):
    """Applies a matrix, then its transpose."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outside, inside))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(x, self.weight).tanh(), self.weight.t())


class Broadcast(nn.Module):
    """Adds or multiplies by a parameter that broadcasts."""

    def __init__(self, shape: tuple[int, ...], function: str) -> None:
        super().__init__()
        self.weight, self.function = nn.Parameter(torch.empty(shape)), function

    def forward(self, x: Tensor) -> Tensor:
        return FUNCTIONS[self.function](x, self.weight)


class Token(nn.Module):
    """Puts a learnt token before the others."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1, 1, *shape))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.weight.expand(len(x), *[-1] * (x.dim() - 1)), x], 1)


class Wrapper(nn.Module):
    """Base of modules that apply another module."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


class Residual(Wrapper):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.module(x)


class InPlaceResidual(Wrapper):
    def forward(self, x: Tensor) -> Tensor:
        y = self.module(x)
        y += x
        return y


class Twice(Wrapper):
    """Applies a module twice."""

    def forward(self, x: Tensor) -> Tensor:
        return self.module(self.module(x).tanh())


class Frames(Wrapper):
    """Applies a module to each frame of [N, T, ...]."""

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x.flatten(0, 1)).unflatten(0, x.shape[:2])


class SequenceFirst(Wrapper):
    """Applies a module to [T, N, ...]."""

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x.transpose(0, 1)).transpose(0, 1)


class Swap(nn.Module):
    """Exchanges the last two dimensions."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mT


class EverySecond(nn.Module):
    """Takes every second entry of the last dimension."""

    def forward(self, x: Tensor) -> Tensor:
        return x[..., ::2]


class Mean(nn.Module):
    """Takes the mean over the last dimension. The gradient then arrives expanded."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(-1)


@dataclass(frozen=True, repr=False)
class Network(Case):
    """A call of ``fisher_diagonal``."""

    layers: tuple[Layer, ...]
    shape: tuple[int, ...]  # of one sample
    outputs: int  # elements of one sample's output
    samples: int
    memory: Memory
    tokens: int | None = None  # size of the vocabulary, for integer inputs
    dtype: str = "float32"
    loss: str = "linear"
    weights: tuple[tuple[float, ...], ...] | None = None
    grouped: bool = True  # weights [G, N], not [N]
    reduction: str = "mean"
    gradient: bool = True
    every_second: bool = False  # of the parameters
    seed: int = 0

    def type(self) -> torch.dtype:
        return getattr(torch, self.dtype)

    def model(self) -> nn.Module:
        """Return the network in eval mode, with values that its type holds exactly."""
        generator = torch.Generator().manual_seed(self.seed)
        model = nn.Sequential(*(layer.build() for layer in self.layers)).eval()
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                values = torch.randn(tensor.shape, generator=generator) * 0.5
                tensor.copy_(values.abs() + 0.5 if name.endswith("running_var") else values)
        return model.to(self.type())

    def data(self) -> tuple[Tensor, Tensor]:
        """Return inputs [N, *shape] and targets [N, outputs]."""
        generator = torch.Generator().manual_seed(self.seed + 1)
        full = (self.samples, *self.shape)
        if self.tokens is None:
            inputs = self.memory.tensor(full, self.type(), generator)
        else:
            inputs = self.memory.tensor(full, torch.float64, generator, integers(self.tokens))
        targets = torch.randn(self.samples, self.outputs, generator=generator).to(self.type())
        return inputs, targets

    def sample_weights(self) -> Tensor:
        """Return weights [G, N]."""
        return torch.ones(1, self.samples) if self.weights is None else torch.tensor(self.weights)

    def given_weights(self) -> Tensor | None:
        """Return the weights as the argument of ``fisher_diagonal``."""
        if self.weights is None:
            return None
        return self.sample_weights() if self.grouped else self.sample_weights()[0]

    def rounds(self) -> bool:
        """Return whether values are rounded before the kernels. A single layer with a linear loss sees exact values."""
        return self.loss == "square" or len(self.layers) > 1 or self.layers[0].holds("Tied", "Twice")

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return a loss for each sample. The gradient of linear losses is exact in every type."""
        flat = outputs.flatten(1)
        if self.loss == "sum":
            return flat.double().sum(1)
        if self.loss == "linear":
            return (flat.double() * targets.double()).sum(1)
        return (flat - targets).square().mean(1)
