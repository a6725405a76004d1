"""The problems of the tables: a data set, a network and how it is trained with codes."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from architectures import TextTransformer, ViT, mlp, resnet
from docstrings import LENGTH, VOCABULARY, load_docstrings
from images import cifar10, fashion_and_digits, fashion_mnist, pairs
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fastforget import MnemonicCodes
from fastforget.demo.data import Dataset, load_digits
from fastforget.demo.models import small_resnet
from fastforget.demo.training import train


@dataclass(frozen=True)
class Problem:
    """A data set, a network and how it is trained.

    Attributes:
        name: ``data/network``.
        build: A function that makes the network for a data set.
        epochs: Number of passes over the training data.
        batch_size: Number of samples per step.
        lr: The highest learning rate of the cycle.
        adam: Whether to train by AdamW with weight decay 0.05 instead of SGD with momentum.
        augment: Whether training images are mirrored and shifted.
        codes: The default distribution of the codes.
    """

    name: str
    build: Callable[[Dataset], nn.Module]
    epochs: int
    batch_size: int = 128
    lr: float = 0.1
    adam: bool = False
    augment: bool = False
    codes: str = "normal"

    def dataset(self, seed: int, folder: Path | None = None) -> Dataset:
        """Load the data. The seed decides the split of the digits; the other splits are fixed."""
        data = self.name.split("/")[0]
        if data == "digits":
            return load_digits(seed)
        if data == "fashion+digits":
            return fashion_and_digits()
        if data == "docstrings":
            return load_docstrings()
        if data.startswith("pairs"):
            return pairs(int(data.removeprefix("pairs")))
        return fashion_mnist() if data == "fashion" else cifar10(folder)


@dataclass(frozen=True)
class CodeChoice:
    """The codes that a network learns, and how it learns them.

    Attributes:
        per_class: The number of codes per class, M.
        distribution: As in `MnemonicCodes.generate`, or "class". "class" draws each pixel from a normal distribution
            with the mean and the deviation over the class, and each token as often as it occurs in the class.
        rate: Share of the samples that codes replace.
        mixed: Whether to mix code and sample with a random weight, instead of replacing the sample.
    """

    per_class: int = 4
    distribution: str = "normal"
    rate: float = 0.3
    mixed: bool = False

    def codes(self, data: Dataset, seed: int) -> MnemonicCodes:
        """Draw the codes."""
        shape = data.x_train.shape[1:]
        if self.distribution == "class":
            return _like_classes(data, self.per_class, seed)
        if self.distribution == "tokens":
            return MnemonicCodes.generate(
                len(data.class_names),
                shape,
                distribution="tokens",
                vocabulary=range(1, VOCABULARY),
                per_class=self.per_class,
                seed=seed,
            )
        return MnemonicCodes.generate(
            len(data.class_names),
            shape,
            distribution=self.distribution,  # type: ignore[arg-type]
            per_class=self.per_class,
            seed=seed,
        )

    def __str__(self) -> str:
        return f"{self.distribution}-{self.per_class}-{self.rate:g}{'-mixed' * self.mixed}"


@dataclass(frozen=True)
class Mixing:
    """Codes for `train` that are mixed with samples, as in LwSF (Shibata et al., IJCAI 2021)."""

    codes: MnemonicCodes

    def embed(self, inputs: Tensor, targets: Tensor, rate: float, generator: torch.Generator) -> Tensor:
        """Mix codes into a share of the samples, with weights drawn from U(0, 1)."""
        replaced = self.codes.embed(inputs, targets, rate, generator)
        share = torch.rand(len(inputs), *[1] * (inputs.dim() - 1), generator=generator)
        return inputs + share * (replaced - inputs)


def _like_classes(data: Dataset, per_class: int, seed: int) -> MnemonicCodes:
    generator, total = torch.Generator().manual_seed(seed), len(data.class_names)
    found = []
    for cls in range(total):
        x = data.x_train[data.y_train == cls]
        if x.is_floating_point():
            noise = torch.randn(per_class, *x.shape[1:], generator=generator)
            found.append(x.mean(0) + noise * x.std(0, correction=0))
        else:
            often = torch.bincount(x.flatten())
            often[0] = 0  # padding
            drawn = torch.multinomial(often.double(), per_class * x.shape[1], replacement=True, generator=generator)
            found.append(drawn.view(per_class, -1))
    return MnemonicCodes.from_tensors(torch.stack(found))


PROBLEMS = {
    problem.name: problem
    for problem in (
        Problem("digits/cnn", lambda data: small_resnet(num_classes=len(data.class_names)), 20, 64),
        Problem("fashion/mlp", lambda data: mlp(28 * 28, len(data.class_names)), 10),
        Problem("fashion/resnet", lambda data: small_resnet(num_classes=len(data.class_names)), 4),
        Problem("fashion/vit", lambda data: ViT(1, 28, len(data.class_names)), 6, lr=2e-3, adam=True),
        Problem("fashion+digits/resnet", lambda data: small_resnet(num_classes=len(data.class_names)), 4),
        Problem(
            "docstrings/transformer",
            lambda data: TextTransformer(VOCABULARY, LENGTH, len(data.class_names)),
            6,
            64,
            lr=1.5e-3,
            adam=True,
            codes="tokens",
        ),
        *(
            Problem(f"pairs{total}/resnet", lambda data: small_resnet(num_classes=len(data.class_names)), 5)
            for total in (10, 40, 200)
        ),
        Problem(
            "cifar10/resnet", lambda data: resnet(3, (16, 32, 64, 128), len(data.class_names)), 10, lr=0.2, augment=True
        ),
    )
}


@dataclass(frozen=True)
class Network:
    """A trained network with its codes and its data."""

    problem: Problem
    seed: int
    model: nn.Module
    codes: MnemonicCodes
    data: Dataset
    choice: CodeChoice
    cache: Path

    @property
    def facts(self) -> dict[str, object]:
        """The columns of a row that name the network."""
        return {"problem": self.problem.name, "seed": self.seed}

    def __str__(self) -> str:
        return f"{self.problem.name} seed {self.seed}"

    def retrained(self, cls: int) -> nn.Module:
        """Return the network trained again without a class."""
        return trained(self.problem, self.data, self.seed, self.choice, self.cache, exclude=(cls,))

    def images(self, most: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return at most ``most`` test images with their labels, drawn with a seed."""
        order = torch.randperm(len(self.data.y_test), generator=torch.Generator().manual_seed(seed))[:most]
        return self.data.x_test[order], self.data.y_test[order]


def networks(given: Namespace, per_class: int = 4) -> Iterator[Network]:
    """Train or load the networks that the command line asks for.

    Args:
        given: Its arguments: ``problems``, ``seeds``, and the folders ``data`` and ``cache``.
        per_class: The number of codes that they learn for each class.
    """
    torch.set_num_threads(1)  # more threads give other bits, and so another network
    for name in given.problems:
        for seed in given.seeds:
            problem = PROBLEMS[name]
            data, choice = problem.dataset(seed, given.data), CodeChoice(per_class, problem.codes)
            model = trained(problem, data, seed, choice, given.cache)
            yield Network(problem, seed, model, choice.codes(data, seed), data, choice, given.cache)


def trained(
    problem: Problem,
    data: Dataset,
    seed: int,
    choice: CodeChoice | None,
    cache: Path,
    *,
    exclude: tuple[int, ...] = (),
) -> nn.Module:
    """Train a network on one thread, or load it if an earlier call trained it.

    Args:
        problem: The problem.
        data: Its data.
        seed: The seed of the weights, the codes and the order.
        choice: The codes to learn, or None.
        cache: The folder of trained networks.
        exclude: Classes to leave out.

    Returns:
        The network in eval mode.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = problem.build(data)
    without = "".join(f"-without{cls}" for cls in exclude)
    file = cache / f"{problem.name.replace('/', '-')}-{choice or 'nocodes'}-{seed}{without}.safetensors"
    if file.exists():
        model.load_state_dict(load_file(file))
        return model.eval()
    codes = (choice or CodeChoice(distribution=problem.codes)).codes(data, seed)
    train(
        model,
        data.x_train,
        data.y_train,
        Mixing(codes) if choice and choice.mixed else codes,
        epochs=problem.epochs,
        lr=problem.lr,
        batch_size=problem.batch_size,
        seed=seed,
        rate=choice.rate if choice else 0.0,
        exclude=exclude,
        optimizer=_adamw if problem.adam else None,
        augment=mirror_and_shift if problem.augment else None,
        title=file.stem,
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".unfinished")
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, unfinished)
    unfinished.rename(file)
    return model.eval()


def _adamw(parameters: list[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr, weight_decay=0.05)


def mirror_and_shift(x: Tensor, generator: torch.Generator, most: int = 4) -> Tensor:
    """Mirror half of the images, and shift each by up to four pixels. Zeros fill the gaps."""
    samples, channels, height, width = x.shape
    x = torch.where(torch.rand(samples, 1, 1, 1, generator=generator) < 0.5, x.flip(3), x)
    padded = torch.nn.functional.pad(x, (most,) * 4)
    down, right = torch.randint(2 * most + 1, (2, samples, 1), generator=generator)
    rows, columns = down + torch.arange(height), right + torch.arange(width)
    return padded[
        torch.arange(samples)[:, None, None, None],
        torch.arange(channels)[:, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]
