"""The demonstration itself: train with codes, forget every class in turn from the same original, undo, compare."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn

import fastforget
from fastforget.codes import MnemonicCodes
from fastforget.demo.data import Dataset, load_digits, load_fashion_mnist
from fastforget.demo.models import small_resnet
from fastforget.demo.report import draw_picture, results_table
from fastforget.demo.results import DemoResult, Forgotten, Trained
from fastforget.demo.training import confusion, train


@dataclass(frozen=True)
class Recipe:
    """How to train on one data set.

    Attributes:
        epochs: Passes over the data.
        batch_size: Samples per step.
        lr: The highest learning rate.
    """

    epochs: int
    batch_size: int
    lr: float = 0.1


# One code alone says where its class is far less surely than a few do: see docs/one-shot.md.
PER_CLASS = 4

RECIPES = {
    "digits": Recipe(epochs=20, batch_size=64),
    "fashion-mnist": Recipe(epochs=4, batch_size=128),
}


def run_demo(
    data: str = "digits",
    folder: Path | None = None,
    output: Path = Path("fastforget-demo.png"),
    *,
    seed: int = 0,
    classes: Sequence[int] | None = None,
    progress: bool = True,
    console: Console | None = None,
) -> DemoResult:
    """Runs the demonstration, prints its table and writes its picture.

    Args:
        data: "digits" or "fashion-mnist".
        folder: With the idx files of Fashion-MNIST; the Debian package's by default.
        output: Of the picture; the type follows from the suffix.
        seed: Of the split, the codes, the initial weights and training.
        classes: Which to forget, in this order; all by default. The retrained model lacks the first.
        progress: Whether to show bars while training, where standard error is a terminal.
        console: Where to print; standard output by default.

    Returns:
        What was measured.

    Raises:
        FileNotFoundError: If the data set, or the folder of `output`, is not there.
        ValueError: If `data` is unknown, does not take a `folder`, or `classes` is empty.
    """
    if data not in RECIPES:
        raise ValueError(f"`data` must be one of {list(RECIPES)}, got {data!r}")
    if folder is not None and data != "fashion-mnist":
        raise ValueError(f"`folder` must be given with fashion-mnist only, got {folder} with {data}")
    if classes is not None and not classes:
        raise ValueError("`classes` must name at least one class, got none")
    if not output.absolute().parent.is_dir():
        raise FileNotFoundError(f"`output` must be in a folder that exists, got {output}")
    console = console or Console()
    dataset = load_digits(seed) if data == "digits" else load_fashion_mnist(folder)
    codes = MnemonicCodes.generate(len(dataset.class_names), dataset.x_train.shape[1:], per_class=PER_CLASS, seed=seed)
    wanted = list(range(len(dataset.class_names)) if classes is None else classes)

    console.print(f"Training on {len(dataset.y_train):,} {dataset.name} images with {codes}")
    model, original = _fit(dataset, codes, RECIPES[data], seed, progress)
    accuracy = float(original.confusion.diagonal().sum() / original.confusion.sum())
    console.print(f"Trained in {original.seconds:.0f} s: {accuracy:.1%} of the test images are recognised")
    console.print(f"Forgetting {len(wanted)} classes, each from this model")
    forgotten = [_forget(model, dataset, codes, cls) for cls in wanted]
    console.print(f"Training again without {dataset.class_names[wanted[0]]}, to compare")
    _, retrained = _fit(dataset, codes, RECIPES[data], seed, progress, exclude=(wanted[0],))

    result = DemoResult(dataset.name, dataset.class_names, original, forgotten, retrained)
    console.print(results_table(result))
    console.print("After every class the forgetting was undone, and every bit of the model was back.")
    draw_picture(result, output)
    console.print(f"Picture: {output}", soft_wrap=True)
    return result


def _fit(
    dataset: Dataset, codes: MnemonicCodes, recipe: Recipe, seed: int, progress: bool, exclude: Sequence[int] = ()
) -> tuple[nn.Module, Trained]:
    model = small_resnet(num_classes=len(codes), seed=seed)
    start = time.perf_counter()
    train(
        model,
        dataset.x_train,
        dataset.y_train,
        codes,
        epochs=recipe.epochs,
        lr=recipe.lr,
        batch_size=recipe.batch_size,
        seed=seed,
        exclude=exclude,
        progress=progress,
    )
    seconds = time.perf_counter() - start
    return model, Trained(confusion(model, dataset.x_test, dataset.y_test, len(codes)), seconds)


def _forget(model: nn.Module, dataset: Dataset, codes: MnemonicCodes, cls: int) -> Forgotten:
    """Forgets one class, measures, undoes it and checks the undo."""
    before = _bytes(model)
    receipt = fastforget.one_shot(model, codes, cls)
    matrix = confusion(model, dataset.x_test, dataset.y_test, len(codes))
    receipt.revert(model)
    after = _bytes(model)
    if not all(torch.equal(before[name], after[name]) for name in before):
        raise RuntimeError(f"undoing class {cls} did not bring every bit of the model back")
    return Forgotten(cls, matrix, receipt.changed, receipt.share, receipt.seconds["total"] * 1e3)


def _bytes(model: nn.Module) -> dict[str, Tensor]:
    """A copy of every parameter and buffer as bytes, so that -0.0 is not 0.0 and NaN equals itself."""
    return {name: value.detach().clone().reshape(-1).view(torch.uint8) for name, value in model.state_dict().items()}
