"""The demonstration: train with codes, forget each class and undo it, compare with retraining."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn

from fastforget.auditing.relearning import again_curve
from fastforget.class_forgetting.one_shot import one_shot
from fastforget.classifier.progress import progress_bar
from fastforget.codes.mnemonic_codes import MnemonicCodes
from fastforget.demo.data import Dataset, load_digits, load_fashion_mnist
from fastforget.demo.models import small_resnet
from fastforget.demo.picture import draw_picture
from fastforget.demo.results import DemoResult, ForgottenClass, TrainedModel
from fastforget.demo.table import again_table, results_table
from fastforget.demo.training import confusion, train

__all__ = ["PER_CLASS", "RECIPES", "Recipe", "forget_and_undo", "run_demo"]


@dataclass(frozen=True)
class Recipe:
    """How to train on a data set.

    Attributes:
        epochs: Number of passes over the data.
        batch_size: Number of samples per step.
        lr: The highest learning rate.
    """

    epochs: int
    batch_size: int
    lr: float = 0.1


# A few codes represent a class much better than one: see docs/results/one-shot.md.
PER_CLASS = 4
_FEW = 10  # images of each class from which all are learnt again

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
    """Run the demonstration, print its table and write its picture.

    Args:
        data: "digits" or "fashion-mnist".
        folder: The folder with the idx files of Fashion-MNIST; by default that of the Debian package.
        output: The file of the picture; its suffix decides the type.
        seed: The seed of the split, the codes, the initial weights and the training.
        classes: The classes to forget, in order; all by default. The model is retrained without the first.
        progress: Whether to show bars, in notebooks and if standard error is a terminal.
        console: Where to print; standard output by default.

    Returns:
        What was measured.

    Raises:
        FileNotFoundError: The data set, or the folder of `output`, does not exist.
        ValueError: `data` is unknown or does not take a `folder`, or `classes` is empty.
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
    to_forget = list(range(len(dataset.class_names)) if classes is None else classes)

    console.print(f"Training on {len(dataset.y_train):,} {dataset.name} images with {codes}")
    model, original = _train_and_test(dataset, codes, RECIPES[data], seed, progress)
    accuracy = float(original.confusion.diagonal().sum() / original.confusion.sum())
    console.print(f"Trained in {original.seconds:.0f} s: {accuracy:.1%} of the test images are recognised")
    console.print(f"Forgetting {len(to_forget)} classes, each from this model")
    turns = progress_bar(to_forget, shown=progress, desc="forgetting", unit="class", leave=False)
    forgotten = [forget_and_undo(model, dataset, codes, cls) for cls in turns]
    console.print(f"Training again without {dataset.class_names[to_forget[0]]}, to compare")
    retrained_model, retrained = _train_and_test(dataset, codes, RECIPES[data], seed, progress, exclude=to_forget[:1])
    again = _learn_again(model, retrained_model, dataset, codes, to_forget[0])

    result = DemoResult(dataset.name, dataset.class_names, original, forgotten, retrained, again)
    console.print(results_table(result))
    console.print(again_table(result))
    console.print("After every class the forgetting was undone, and every bit of the model was back.")
    draw_picture(result, output)
    console.print(f"Picture: {output}", soft_wrap=True)
    return result


def _train_and_test(
    dataset: Dataset, codes: MnemonicCodes, recipe: Recipe, seed: int, progress: bool, exclude: Sequence[int] = ()
) -> tuple[nn.Module, TrainedModel]:
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
    return model, TrainedModel(confusion(model, dataset.x_test, dataset.y_test, len(codes)), seconds)


def forget_and_undo(model: nn.Module, dataset: Dataset, codes: MnemonicCodes, cls: int) -> ForgottenClass:
    """Forget a class and measure the model; then undo this, and check that every bit is back.

    Args:
        model: The original; unchanged afterwards.
        dataset: The data to test on.
        codes: The codes.
        cls: The class.

    Returns:
        What was measured.

    Raises:
        RuntimeError: A bit of the model is not what it was.
    """
    before = _bytes_of(model)
    receipt = one_shot(model, codes, cls)
    matrix = confusion(model, dataset.x_test, dataset.y_test, len(codes))
    receipt.revert(model)
    after = _bytes_of(model)
    if not all(torch.equal(before[name], after[name]) for name in before):
        raise RuntimeError(f"undoing class {cls} did not bring every bit of the model back")
    return ForgottenClass(cls, matrix, receipt.changed, receipt.share, receipt.seconds["total"] * 1e3)


def _learn_again(
    original: nn.Module, retrained: nn.Module, dataset: Dataset, codes: MnemonicCodes, cls: int
) -> dict[str, list[tuple[int, float]]]:
    """Watch a class come back, see `DemoResult.again`: what was only hidden comes back at once."""
    forgotten = copy.deepcopy(original)
    one_shot(forgotten, codes, cls)
    rows = torch.cat([(dataset.y_train == c).nonzero()[:_FEW, 0] for c in range(len(codes))])
    few = [(dataset.x_train[rows], dataset.y_train[rows])]
    of_class = dataset.y_test == cls
    unseen = [(dataset.x_test[of_class], dataset.y_test[of_class])]
    models = {"original": original, "forgotten": forgotten, "retrained": retrained}
    return {name: again_curve(model, few, unseen) for name, model in models.items()}


def _bytes_of(model: nn.Module) -> dict[str, Tensor]:
    """Copy each parameter and buffer as bytes, so that -0.0 differs from 0.0 and NaN equals NaN."""
    return {name: value.detach().clone().reshape(-1).view(torch.uint8) for name, value in model.state_dict().items()}
