"""Does one-shot forgetting work? Every class of a data set, several seeds, codes only: prints a table per rule.

    python benchmarks/forgetting.py --data digits --seeds 0 1 2
    python benchmarks/forgetting.py --data fashion-mnist --seeds 0 --cache /tmp/checkpoints

A row is one (seed, class): accuracy on the forgotten class, and on the remaining classes minus that of the original
on the same images, both on the test set, in percentage points. The rules see the model and its codes, nothing else.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import fastforget
from fastforget.demo.data import Dataset, load_digits, load_fashion_mnist
from fastforget.demo.models import small_resnet
from fastforget.demo.run import PER_CLASS, RECIPES
from fastforget.demo.training import confusion, train

FORGET_BOUND, REMAIN_BOUND = 1.0, -1.5
RULES = {
    "natural": {"rule": "natural"},
    "paper (1e-3, 1)": {"rule": "paper", "lambda1": 1e-3, "lambda2": 1.0},
    "paper (1e-3, 10)": {"rule": "paper", "lambda1": 1e-3, "lambda2": 10.0},
}


def trained(data: str, dataset: Dataset, codes: fastforget.MnemonicCodes, seed: int, cache: Path | None) -> nn.Module:
    """Train as the demo does, or load what an earlier run trained."""
    model, recipe = small_resnet(num_classes=len(codes), seed=seed), RECIPES[data]
    file = cache / f"{data}-{codes.distribution}-{codes.per_class}-{seed}.safetensors" if cache else None
    if file and file.exists():
        model.load_state_dict(load_file(file))
        return model.eval()
    train(
        model,
        dataset.x_train,
        dataset.y_train,
        codes,
        epochs=recipe.epochs,
        lr=recipe.lr,
        batch_size=recipe.batch_size,
        seed=seed,
        title=f"{data} seed {seed}",
    )
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(model.state_dict(), file)
    return model.eval()


def rates(matrix: Tensor, cls: int) -> tuple[float, float]:
    """Return the accuracy on a class and on all others, in percent, from a confusion matrix."""
    right, seen = matrix.diagonal(), matrix.sum(1)
    others = torch.arange(len(seen)) != cls
    return float(100 * right[cls] / seen[cls]), float(100 * right[others].sum() / seen[others].sum())


def measure(data: str, seed: int, per_class: int, cache: Path | None, folder: Path | None) -> list[dict[str, Any]]:
    """Forget every class with every rule, each from the same model."""
    dataset = load_digits(seed) if data == "digits" else load_fashion_mnist(folder)
    total = len(dataset.class_names)
    codes = fastforget.MnemonicCodes.generate(total, dataset.x_train.shape[1:], seed=seed, per_class=per_class)
    model = trained(data, dataset, codes, seed, cache)
    original = confusion(model, dataset.x_test, dataset.y_test, total)
    rows = []
    for name, arguments in RULES.items():
        for cls in range(total):
            receipt = fastforget.one_shot(model, codes, cls, **arguments)
            forget, remain = rates(confusion(model, dataset.x_test, dataset.y_test, total), cls)
            receipt.revert(model)
            base = rates(original, cls)[1]
            rows.append(
                {
                    "rule": name,
                    "seed": seed,
                    "cls": cls,
                    "forget": forget,
                    "remain": remain,
                    "change": remain - base,
                    "milliseconds": 1e3 * receipt.seconds["total"],
                }
            )
    return rows


def table(rows: list[dict[str, Any]], title: str) -> Table:
    """Summarise each rule: means, worst classes, and how many classes are within both bounds."""
    columns = ("rule", "forget accuracy, mean", "worst", "remaining accuracy, change, mean", "worst", "ok")
    found = Table(*columns, title=title)
    for rule in dict.fromkeys(row["rule"] for row in rows):
        chosen = [row for row in rows if row["rule"] == rule]
        forget, change = [row["forget"] for row in chosen], [row["change"] for row in chosen]
        good = sum(f <= FORGET_BOUND and c >= REMAIN_BOUND for f, c in zip(forget, change, strict=True))
        cells = (f"{mean(forget):.2f}", f"{max(forget):.2f}", f"{mean(change):+.2f}", f"{min(change):+.2f}")
        found.add_row(rule, *cells, f"{good} of {len(chosen)}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=list(RECIPES), default="digits")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--per-class", type=int, default=PER_CLASS, help="codes per class")
    parser.add_argument("--cache", type=Path, help="folder for trained models")
    parser.add_argument("--folder", type=Path, help="idx files of Fashion-MNIST, if not those of the Debian package")
    parser.add_argument("--json", type=Path, help="write every row here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # training on more threads gives other bits, and so another network
    rows = []
    for seed in arguments.seeds:
        rows += measure(arguments.data, seed, arguments.per_class, arguments.cache, arguments.folder)
    console = Console()
    title = f"{arguments.data}, seeds {arguments.seeds}, {arguments.per_class} codes per class"
    console.print(table(rows, title))
    worst = [row for row in rows if row["rule"] == "natural"]
    for row in sorted(worst, key=lambda row: row["change"])[:3] + sorted(worst, key=lambda row: -row["forget"])[:1]:
        console.print(f"natural, seed {row['seed']}, class {row['cls']}: {row['forget']:.2f} {row['change']:+.2f}")
    if arguments.json:
        machine = {"machine": platform.machine(), "torch": torch.__version__, "threads": torch.get_num_threads()}
        arguments.json.write_text(json.dumps({"title": title, **machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
