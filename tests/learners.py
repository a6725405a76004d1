"""A classifier that has memorised its training data, and this data."""

import copy
from functools import cache

import torch
from torch import Tensor, nn

from fastforget.membership.area import area_under_curve

CLASSES, SIZE = 4, 30
Batches = list[tuple[Tensor, Tensor]]


def samples(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return samples around the means of four classes. A fifth of the labels is random and can only be memorised."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(CLASSES, SIZE, generator=torch.Generator().manual_seed(99))
    y = torch.arange(count) % CLASSES
    x = 0.4 * means[y] + torch.randn(count, SIZE, generator=generator)
    noisy = torch.rand(count, generator=generator) < 0.2
    return x, torch.where(noisy, torch.randint(CLASSES, (count,), generator=generator), y)


def batches(data: tuple[Tensor, Tensor], rows: Tensor | slice = slice(None), size: int = 40) -> Batches:
    return list(zip(data[0][rows].split(size), data[1][rows].split(size), strict=True))


MEMBERS, OTHERS, FRESH = samples(400, 1), samples(400, 2), samples(400, 3)
RANDOM = torch.randperm(400, generator=torch.Generator().manual_seed(5)) < 60
FORGET, REMAIN = batches(MEMBERS, RANDOM), batches(MEMBERS, ~RANDOM)
CLASS, REST = batches(MEMBERS, MEMBERS[1] == 2), batches(MEMBERS, MEMBERS[1] != 2)


def untrained() -> nn.Module:
    return nn.Sequential(nn.Linear(SIZE, 96), nn.BatchNorm1d(96), nn.ReLU(), nn.Dropout(0.1), nn.Linear(96, CLASSES))


@cache
def _learner() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = untrained()
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        for _ in range(30):
            for x, y in batches(MEMBERS):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x), y).backward()
                optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def learner() -> nn.Module:
    return copy.deepcopy(_learner())


def accuracy(model: nn.Module, data: Batches) -> float:
    with torch.no_grad():
        return float(torch.cat([model(x).argmax(1) == y for x, y in data]).double().mean())


def attack_area(model: nn.Module, members: Batches, others: Batches) -> float:
    """Return the area under the curve of an attack by the loss, which no method is trained against."""
    with torch.no_grad():
        scores = [
            torch.cat([-nn.functional.cross_entropy(model(x), y, reduction="none") for x, y in data])
            for data in (members, others)
        ]
    return area_under_curve(*scores)
