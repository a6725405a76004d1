"""A comparison that takes a second: small data, a small network, and methods of its own."""

from pathlib import Path
from typing import Any

from learners import CLASSES, SIZE, samples
from torch import nn

from fastforget import compare
from fastforget.comparison import Comparison
from fastforget.edits import recorded

TRAIN, TEST, UNSEEN = samples(160, 1), samples(160, 2), samples(160, 3)
TIMES = ("time", "CPU time", "peak memory")  # which differ from call to call

# A module of the user's.
MINE = """
from comparison.small import TEST, TRAIN, network
from fastforget.edits import recorded

def train():
    return [(x, y) for x, y in zip(TRAIN[0].split(40), TRAIN[1].split(40))]

def fails():
    raise KeyError("disk")

def no_samples():
    return 3

def untrainable():
    import torch
    return torch.nn.Identity()

def wide():
    return [(TRAIN[0][:, :7], TRAIN[1])]

def one(x):
    return x

@recorded
def method(model, forget, remain, *, by: float, seed):
    for parameter in model.parameters():
        parameter.data *= by

number = 3
"""

calls: list[str] = []


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(SIZE, 24), nn.ReLU(), nn.Linear(24, CLASSES))


def nothing(model: nn.Module, forget: Any, remain: Any) -> None:
    """Leave the network as it is."""
    calls.append("nothing")


@recorded
def shrink(model: nn.Module, forget: Any, remain: Any, *, by: float = 0.5) -> None:
    """Make all parameters smaller."""
    for parameter in model.parameters():
        parameter.data *= by


def config(**changes: Any) -> dict[str, Any]:
    """Return a configuration; a change of None leaves the key out."""
    whole = {
        "seeds": [0, 1],
        "model": {"make": network},
        "training": {"epochs": 12, "lr": 0.3},
        "data": {"train": TRAIN, "test": TEST},
        "forget": {"classes": [2]},
        "methods": [{"method": nothing}, {"method": "fine_tune", "epochs": 2}],
        "audit": {"relearning_steps": 0},
        **changes,
    }
    return {name: value for name, value in whole.items() if value is not None}


def run(folder: Path, **changes: Any) -> Comparison:
    return compare(config(**changes), output=folder)


def untimed(found: Comparison) -> list[tuple[int, str, dict[str, float | None]]]:
    """Return the rows without what differs from call to call."""
    return [
        (row.seed, row.method, {name: value for name, value in row.measures.items() if name not in TIMES})
        for row in found.rows
    ]


def of(found: Comparison, method: str, seed: int) -> dict[str, float | None]:
    """Return the measures of a row, without times."""
    return next(measures for at, name, measures in untimed(found) if (at, name) == (seed, method))
