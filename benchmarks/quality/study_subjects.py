"""What the study of all methods forgets from: networks that remember their training data, and the same trained again.

A few thousand images without augmentation: the networks know their training images by heart and do worse on others, so
that it can be told whether they forgot one. Trained for long on much data, small networks do not, and there is nothing
to measure.
"""

from __future__ import annotations

import copy
import time
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from problems import PROBLEMS
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fastforget import MnemonicCodes
from fastforget.demo.data import Dataset
from fastforget.demo.training import train

# Training images and passes over them.
SIZES = {"fashion/resnet": (6000, 20), "cifar10/resnet": (10_000, 15)}
SCENARIOS = ("class", "random")
HELD_OUT = 2000
BATCH = 64


@dataclass(frozen=True)
class Samples:
    """Batches of samples in a new order each time, drawn from the default random state; the last one is full too.

    Attributes:
        x: Inputs [N, *shape].
        y: Classes, int64 [N].
    """

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        """Count the batches."""
        return max(1, len(self.y) // BATCH)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield a pass over them."""
        for rows in torch.randperm(len(self.y))[: len(self) * BATCH].split(BATCH):
            yield self.x[rows], self.y[rows]

    def first(self, count: int) -> Samples:
        """Return the first ones; their order is random from the beginning."""
        return Samples(self.x[:count], self.y[:count])

    def __getitem__(self, chosen: Tensor) -> Samples:
        """Return those of a mask, or in an order."""
        return Samples(self.x[chosen], self.y[chosen])


@dataclass(frozen=True)
class Subject:
    """A network, what it is to forget, and the network that never saw that.

    Attributes:
        facts: Problem, seed and scenario.
        original: The network; in eval mode, not to be changed.
        retrained: The same, trained again on what remains.
        seconds: CPU time that this took.
        forget: The samples to forget: a class, or a tenth of all.
        remain: All other training samples.
        held_out: Samples that it was not trained on, and is not tested on.
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
        """Return a part of the remaining samples."""
        return self.remain.first(round(len(self.remain.y) * percent / 100))

    def network(self) -> nn.Module:
        """Return a copy of the original to edit."""
        return copy.deepcopy(self.original)


def subjects(given: Namespace) -> Iterator[Subject]:
    """Train or load what a command asks for with ``problems``, ``seeds``, ``scenarios``, ``data`` and ``cache``."""
    torch.set_num_threads(1)  # training on more threads gives other bits, and so another network
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
    """Return which samples are to be forgotten, bool [N]; another class for each seed."""
    if scenario == "class":
        return y == (3 * seed + 2) % 10
    chosen = torch.zeros(len(y), dtype=torch.bool)
    chosen[: len(y) // 10] = True  # in random order already
    return chosen


def _mixed(samples: Samples) -> Samples:
    """Return samples so that the first ones are of all classes: files are read class by class."""
    if bool((samples.y.diff() >= 0).all()):
        return samples[torch.randperm(len(samples.y), generator=torch.Generator().manual_seed(0))]
    return samples


def _file(name: str, seed: int) -> str:
    return f"study-{name.replace('/', '-')}-{'-'.join(map(str, SIZES[name]))}-{seed}"


def _trained(name: str, data: Dataset, samples: Samples, seed: int, file: Path) -> tuple[nn.Module, float]:
    """Train the network, or load what an earlier call trained; return it with the CPU time of training."""
    problem, (_, epochs) = PROBLEMS[name], SIZES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = problem.build(data)
    if not file.exists():
        started = time.process_time()
        codes = MnemonicCodes.generate(len(data.class_names), samples.x.shape[1:], seed=seed)
        settings = {"epochs": epochs, "lr": problem.lr, "batch_size": problem.batch_size, "seed": seed, "rate": 0.0}
        train(model, samples.x, samples.y, codes, **settings, title=file.stem)  # type: ignore[arg-type]
        seconds = time.process_time() - started
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_suffix(".unfinished")
        tensors = {key: value.contiguous() for key, value in model.state_dict().items()}
        save_file(tensors, unfinished, {"seconds": f"{seconds:.1f}"})
        unfinished.rename(file)
    model.load_state_dict(load_file(file))
    with safe_open(file, "pt") as opened:
        seconds = float(opened.metadata()["seconds"])
    return model.eval(), seconds
