"""The networks on which every definition is tried."""

import models
import torch
from fisher.small_modules import Prototypes
from models import N
from torch import Tensor, nn


def disordered() -> nn.Module:
    """The samples are lost sight of, so that every parameter takes the path of one sample after the other.

    A user's hook keeps modules from being tried as a whole.
    """

    class Twice(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flip(0).flip(0)

    model = nn.Sequential(nn.Linear(3, 6), Twice(), nn.Tanh(), nn.Linear(6, 4))
    model[1].register_forward_hook(lambda *_: None)
    return model


FALLBACKS = {"one fallback": {"1.points"}, "disordered": {"0.weight", "0.bias", "3.weight", "3.bias"}}
X = torch.randn(N, 3, generator=torch.Generator().manual_seed(5))
MODELS = {
    **{name: case for name, case in models.MODELS.items() if name != "bert"},  # which returns a dict
    "one fallback": (lambda: nn.Sequential(nn.Linear(3, 6), Prototypes(6, 6), nn.Linear(6, 4)), X),
    "disordered": (disordered, X),
}
