"""The networks of the study: networks that remember their training data, and the same networks retrained.

They are trained on a few thousand images without augmentation. So they remember their training images and do worse on
others, and it can be measured whether they forgot one. Small networks that are trained for long on much data do not
remember single images.
"""

from __future__ import annotations

import copy
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from problems import PROBLEMS
from torch import Tensor, nn

from fastforget import MnemonicCodes
from fastforget.comparison.checkpoints import kept_network
from fastforget.demo.data import Dataset
from fastforget.demo.training import train

# Number of training images, and of passes over them.
SIZES = {"fashion/resnet": (6000, 20), "cifar10/resnet": (10_000, 15)}
SCENARIOS = ("class", "random")
HELD_OUT = 2000
BATCH = 64


@dataclass(frozen=True)
class Samples:
    """Full batches of samples, in a new random order in each pass. The order comes from the global random state.

    Attributes:
        x: Inputs [N, *shape].
        y: Classes, int64 [N].
    """

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        """Return the number of batches."""
        return max(1, len(self.y) // BATCH)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of one pass."""
        for rows in torch.randperm(len(self.y))[: len(self) * BATCH].split(BATCH):
            yield self.x[rows], self.y[rows]

    def first(self, count: int) -> Samples:
        """Return the first samples. They are in random order."""
        return Samples(self.x[:count], self.y[:count])

    def __getitem__(self, chosen: Tensor) -> Samples:
        """Return the samples of a mask, or of some rows in order."""
        return Samples(self.x[chosen], self.y[chosen])


@dataclass(frozen=True)
class Subject:
    """A network, what it is to forget, and a network retrained without that.

    Attributes:
        facts: Problem, seed and scenario.
        original: The network, in eval mode; it must not be changed.
        retrained: The network trained again on the remaining samples.
        seconds: CPU time of this training.
        forget: The samples to forget: a class, or a tenth of all.
        remain: All other training samples.
        held_out: Samples that are used neither for training nor for testing.
        test: Test samples.
    """

    facts: dict[str, object]
    original: nn.Module
    retrained: nn.Module
    seconds: float
    forget: Samples
    remain: Samples
    held_out: Samples
    test: Samples

    def part(self, percent: int) -> Samples:
        """Return the first ``percent`` of the remaining samples."""
        return self.remain.first(round(len(self.remain.y) * percent / 100))

    def network(self) -> nn.Module:
        """Return a copy of the original to edit."""
        return copy.deepcopy(self.original)


def subjects(given: Namespace) -> Iterator[Subject]:
    """Train or load the networks for ``problems``, ``seeds``, ``scenarios``, ``data`` and ``cache``."""
    torch.set_num_threads(1)  # more threads give other bits, and so another network
    for name in given.problems:
        for seed in given.seeds:
            data = PROBLEMS[name].dataset(seed, given.data)
            order = torch.randperm(len(data.y_train), generator=torch.Generator().manual_seed(seed))
            count, _ = SIZES[name]
            seen, held_out = order[:count], order[count : count + HELD_OUT]
            everything = Samples(data.x_train[seen], data.y_train[seen])
            original, _ = _trained(name, data, everything, seed, given.cache / f"{_file(name, seed)}.safetensors")
            for scenario in given.scenarios:
                chosen = forgotten(everything.y, scenario, seed)
                file = given.cache / f"{_file(name, seed)}-{scenario}.safetensors"
                retrained, seconds = _trained(name, data, everything[~chosen], seed, file)
                yield Subject(
                    {"problem": name, "seed": seed, "scenario": scenario},
                    original,
                    retrained,
                    seconds,
                    everything[chosen],
                    everything[~chosen],
                    Samples(data.x_train[held_out], data.y_train[held_out]),
                    _mixed(Samples(data.x_test, data.y_test)),
                )


def forgotten(y: Tensor, scenario: str, seed: int) -> Tensor:
    """Return which samples to forget, bool [N]. The class depends on the seed."""
    if scenario == "class":
        return y == (3 * seed + 2) % 10
    chosen = torch.zeros(len(y), dtype=torch.bool)
    chosen[: len(y) // 10] = True  # they are in random order already
    return chosen


def _mixed(samples: Samples) -> Samples:
    """Shuffle samples that are sorted by class, so that the first ones are of all classes."""
    if bool((samples.y.diff() >= 0).all()):
        return samples[torch.randperm(len(samples.y), generator=torch.Generator().manual_seed(0))]
    return samples


def _file(name: str, seed: int) -> str:
    return f"trained-{name.replace('/', '-')}-{'-'.join(map(str, SIZES[name]))}-{seed}"


def _trained(name: str, data: Dataset, samples: Samples, seed: int, file: Path) -> tuple[nn.Module, float]:
    """Train a network, or load it if an earlier call did. Return it with the CPU time of the training."""
    problem, (_, epochs) = PROBLEMS[name], SIZES[name]

    def build() -> nn.Module:
        torch.manual_seed(seed)
        return problem.build(data)

    def fit(model: nn.Module) -> None:
        codes = MnemonicCodes.generate(len(data.class_names), samples.x.shape[1:], seed=seed)
        settings = {"epochs": epochs, "lr": problem.lr, "batch_size": problem.batch_size, "seed": seed, "rate": 0.0}
        train(model, samples.x, samples.y, codes, **settings, title=file.stem)  # type: ignore[arg-type]

    network = kept_network(file, build, fit)
    return network.model, network.cost.cpu_seconds
