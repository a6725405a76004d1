"""What all tables share: arguments, accuracies, and files of rows."""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastforget import ForgettingError, MnemonicCodes, Receipt, one_shot

Row = dict[str, Any]

CACHE = Path.home() / ".cache" / "fastforget" / "quality"
FOLDERS = ("--data", "--cache", "--output")
RESULTS = Path(__file__).parents[1] / "results" / "quality"


def parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with the arguments that all tables share."""
    arguments = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments.add_argument("--cache", type=Path, default=CACHE, help="folder of trained networks")
    arguments.add_argument("--data", type=Path, help="folder of CIFAR-10 as image files: {train,test}/<class>/*.jpg")
    arguments.add_argument("--output", type=Path, default=RESULTS, help="folder for the rows, as JSON")
    return arguments


@torch.no_grad()
def logits(model: nn.Module, x: Tensor, batch_size: int = 250) -> Tensor:
    """Return the logits [N, C] of samples, computed in batches."""
    return torch.cat([model(part) for part in x.split(batch_size)])


def forget_by_step_alone(
    model: nn.Module, codes: MnemonicCodes, classes: int | Sequence[int], **settings: Any
) -> Receipt | None:
    """Forget classes in place, with the output layer left as it is; do nothing where no step suffices."""
    try:
        return one_shot(model, codes, classes, output_row=False, **settings)
    except ForgettingError:
        return None


def logits_by_step_alone(model: nn.Module, codes: MnemonicCodes, cls: int, x: Tensor, **settings: Any) -> Tensor:
    """Return the logits [N, C] after the step alone; the model is as it was."""
    receipt = forget_by_step_alone(model, codes, cls, **settings)
    found = logits(model, x)
    if receipt is not None:
        receipt.revert(model)
    return found


def accuracies(logits: Tensor, y: Tensor, classes: Sequence[int]) -> tuple[float, float]:
    """Return the accuracy on some classes and on all others, in percent."""
    right = (logits.argmax(1) == y).double()
    inside = torch.isin(y, torch.tensor(list(classes)))
    return 100 * right[inside].mean().item(), 100 * right[~inside].mean().item()


def save_rows(name: str, rows: Iterable[Row], folder: Path, key: Sequence[str]) -> None:
    """Add rows to ``name.json``. A new row replaces an earlier one with the same values of ``key``."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.json"
    old = json.loads(file.read_text())["rows"] if file.exists() else []
    new = [{**row, **_circumstances()} for row in rows]
    merged = sorted({_values(row, key): row for row in (*old, *new)}.values(), key=lambda row: _values(row, key))
    file.write_text('{"rows": [\n' + ",\n".join(json.dumps(row) for row in merged) + "\n]}\n")


def _values(row: Row, key: Sequence[str]) -> tuple[Any, ...]:
    return tuple(tuple(row[name]) if isinstance(row[name], list) else row[name] for name in key)


def _commit() -> str:
    """Return the commit of the code, marked if it was changed since; rows and pages do not count."""
    root = Path(__file__).parents[2]

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], capture_output=True, text=True, cwd=root, check=False).stdout.strip()  # noqa: S603, S607

    changed = git("status", "--porcelain", "--", "fastforget", "csrc", "benchmarks", ":!benchmarks/results")
    return git("describe", "--always") + ("-dirty" if changed else "")


_COMMIT = _commit()  # at once: a long run keeps the code that it began with


def _circumstances() -> Row:
    given = [Path(sys.argv[0]).name, *sys.argv[1:]]
    # folders differ between machines
    shown = ["FOLDER" if before in FOLDERS else word for before, word in zip(["", *given], given, strict=False)]
    return {
        "command": shlex.join(shown),
        "commit": _COMMIT,
        "date": datetime.now(timezone.utc).date().isoformat(),
        "machine": platform.machine(),
        "torch": torch.__version__,
    }
