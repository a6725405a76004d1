"""What is forgotten from: a data set, a network and how it is trained with codes."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from architectures import TextTransformer, ViT, mlp, resnet
from docstrings import LENGTH, VOCABULARY, load_docstrings
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from fastforget import MnemonicCodes
from fastforget.demo.data import Dataset, load_digits, load_fashion_mnist
from fastforget.demo.models import small_resnet
from fastforget.demo.training import train


@dataclass(frozen=True)
class Problem:
    """A data set, a network and how it is trained.

    Attributes:
        name: ``data/network``.
        build: Returns the network for data.
        epochs: Passes over the training data.
        batch_size: Samples per step.
        lr: The highest learning rate of the cycle.
        adam: AdamW with weight decay 0.05 instead of SGD with momentum.
        augment: Whether training images are mirrored and shifted.
        codes: What codes are drawn from, unless something else is asked for.
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
        """Load the data; the seed matters to the split of digits only."""
        data = self.name.split("/")[0]
        if data == "digits":
            return load_digits(seed)
        if data == "fashion+digits":
            return _both()
        if data == "docstrings":
            return load_docstrings()
        if data.startswith("pairs"):
            return _pairs(int(data.removeprefix("pairs")))
        return _fashion() if data == "fashion" else _cifar10(folder)


@dataclass(frozen=True)
class CodeChoice:
    """How many codes of which kind a network learns, and how.

    Attributes:
        per_class: M.
        distribution: As in `MnemonicCodes.generate`, or "class": every pixel normal, with the mean and the deviation
            that it has over the class; every token as often as in the class.
        rate: Share of the samples that they take the place of.
        mixed: They are mixed with the sample, evenly from one to the other, instead of taking its place.
    """

    per_class: int = 4
    distribution: str = "normal"
    rate: float = 0.3
    mixed: bool = False

    def codes(self, data: Dataset, seed: int) -> MnemonicCodes:
        """Draw them."""
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
    """Codes for `train` that are mixed with samples (as in LwSF, Shibata et al., IJCAI 2021)."""

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
    """A trained network with the codes it learned and its data."""

    problem: Problem
    seed: int
    model: nn.Module
    codes: MnemonicCodes
    data: Dataset
    choice: CodeChoice
    cache: Path

    @property
    def facts(self) -> dict[str, object]:
        """What a row says of it."""
        return {"problem": self.problem.name, "seed": self.seed}

    def __str__(self) -> str:
        return f"{self.problem.name} seed {self.seed}"

    def retrained(self, cls: int) -> nn.Module:
        """Return the network trained again without a class."""
        return trained(self.problem, self.data, self.seed, self.choice, self.cache, exclude=(cls,))

    def images(self, most: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return up to so many test images with their labels, drawn with a seed."""
        order = torch.randperm(len(self.data.y_test), generator=torch.Generator().manual_seed(seed))[:most]
        return self.data.x_test[order], self.data.y_test[order]


def networks(given: Namespace, per_class: int = 4) -> Iterator[Network]:
    """Train or load the networks that a command asks for.

    Args:
        given: Its arguments: ``problems``, ``seeds``, and the folders ``data`` and ``cache``.
        per_class: How many codes of each class they learn.
    """
    torch.set_num_threads(1)  # training on more threads gives other bits, and so another network
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
    """Train the network on one thread, or load what an earlier call trained.

    Args:
        problem: What to train.
        data: On what.
        seed: Of the weights, the codes and the order.
        choice: The codes to learn; None for none.
        cache: Folder of trained networks.
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
    """Mirror half of the images and shift each by up to four pixels, zeros coming in."""
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


@lru_cache(maxsize=1)
def _fashion() -> Dataset:
    return load_fashion_mnist()


@lru_cache(maxsize=1)
def _both(each: int = 2000) -> Dataset:
    """Twenty classes: 2,000 images of each of Fashion-MNIST, and the digits, enlarged, ten times over."""
    fashion, digits = _fashion(), load_digits(0)
    rows = torch.cat([(fashion.y_train == cls).nonzero().squeeze(1)[:each] for cls in range(10)])
    x_digits, x_test = (torch.nn.functional.interpolate(x, 28) for x in (digits.x_train, digits.x_test))
    return Dataset(
        "Fashion-MNIST and digits",
        (*fashion.class_names, *digits.class_names),
        torch.cat([fashion.x_train[rows], x_digits.repeat(10, 1, 1, 1)]),
        torch.cat([fashion.y_train[rows], digits.y_train.repeat(10) + 10]),
        torch.cat([fashion.x_test, x_test]),
        torch.cat([fashion.y_test, digits.y_test + 10]),
    )


@lru_cache(maxsize=1)
def _pairs(total: int, samples: int = 40_000) -> Dataset:
    """Pairs of a garment and a digit beside it, 14x28 pixels: as many classes as are wanted of the same images.

    Of 10 classes the digit says nothing, of 40 four digits are told apart, of 200 all ten and whether the image is
    negative.
    """
    fashion, digits = _fashion(), load_digits(0)
    names = tuple(
        f"{garment} {digit}{sign}"
        for sign in (("", " negative") if total > 100 else ("",))
        for digit in range(total // 10 if total <= 100 else 10)
        for garment in fashion.class_names
    )
    parts = []
    for seed, (count, x, y, x_digit, y_digit) in enumerate(
        (
            (samples, fashion.x_train, fashion.y_train, digits.x_train, digits.y_train),
            (len(fashion.y_test), fashion.x_test, fashion.y_test, digits.x_test, digits.y_test),
        )
    ):
        generator = torch.Generator().manual_seed(seed)
        kinds = min(len(names) // 10, 10)
        known = (y_digit < kinds).nonzero().squeeze(1) if kinds > 1 else torch.arange(len(y_digit))
        beside = known[torch.randint(len(known), (count,), generator=generator)]
        left = torch.nn.functional.avg_pool2d(x[:count], 2)
        right = torch.nn.functional.interpolate(x_digit[beside], 14)
        images, labels = torch.cat([left, right], 3), y[:count] + (10 * y_digit[beside] if kinds > 1 else 0)
        if total > 100:
            negative = torch.randint(2, (count,), generator=generator)
            images, labels = images * (1 - 2 * negative).view(-1, 1, 1, 1), labels + 100 * negative
        parts.append((images, labels))
    (x_train, y_train), (x_test, y_test) = parts
    return Dataset(f"pairs, {total} classes", names, x_train, y_train, x_test, y_test)


@lru_cache(maxsize=1)
def _cifar10(folder: Path | None) -> Dataset:
    """Read CIFAR-10 from image files, ``{train,test}/<class>/*.jpg``; scaled by the statistics of each channel."""
    if folder is None or not (folder / "train").is_dir():
        raise FileNotFoundError(f"no train/ in {folder}: give the folder of CIFAR-10 as image files with --data")
    names = tuple(sorted(path.name for path in (folder / "train").iterdir()))
    parts = []
    for part in ("train", "test"):
        files = [(file, label) for label, name in enumerate(names) for file in sorted((folder / part / name).iterdir())]
        shown = tqdm(files, desc=f"reading {part}", disable=None, leave=False)
        images = np.stack([np.asarray(Image.open(file).convert("RGB")) for file, _ in shown])
        parts.append((torch.from_numpy(images).permute(0, 3, 1, 2), torch.tensor([label for _, label in files])))
    (x_train, y_train), (x_test, y_test) = parts
    mean = x_train.double().mean((0, 2, 3), keepdim=True).float()
    deviation = (x_train.float() - mean).square().mean((0, 2, 3), keepdim=True).sqrt()
    x_train, x_test = ((images.float() - mean) / deviation for images in (x_train, x_test))
    return Dataset("CIFAR-10 (JPEG)", names, x_train, y_train, x_test, y_test)
