"""Predictions and models that the tests of the audit share."""

import torch
from learners import CLASSES, FRESH, REMAIN, Batches, batches, untrained
from torch import Tensor, nn

from fastforget import baselines
from fastforget.classifier.predictions import Predictions

TEST = batches(FRESH)


def predictions_of(p: list[list[float]], y: list[int]) -> Predictions:
    """Return predictions with these probabilities and targets."""
    return Predictions(torch.tensor(p, dtype=torch.float64).log(), torch.tensor(y))


def random_predictions(samples: int, seed: int = 0, scale: float = 3.0) -> Predictions:
    """Return predictions with random logits and targets."""
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(samples, CLASSES, generator=generator, dtype=torch.float64)
    return Predictions(logits, torch.randint(CLASSES, (samples,), generator=generator))


class InputsAsLogits(nn.Module):
    """Returns its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.zero = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.zero


def retrained(seed: int = 0, data: Batches = REMAIN) -> nn.Module:
    """Train a learner on some data alone, by default on the samples that remain."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = untrained()
    baselines.retrain(model, [], data, epochs=30, seed=seed)
    return model.eval()
