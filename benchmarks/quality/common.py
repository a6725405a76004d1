"""What the tables share: arguments, accuracies, and the file of rows."""

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

Row = dict[str, Any]

CACHE = Path.home() / ".cache" / "fastforget" / "quality"
FOLDERS = ("--data", "--cache", "--output")
RESULTS = Path(__file__).parents[1] / "results" / "quality"


def parser(description: str) -> argparse.ArgumentParser:
    """Return the parser with the arguments that every table takes."""
    found = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    found.add_argument("--cache", type=Path, default=CACHE, help="folder of trained networks")
    found.add_argument("--data", type=Path, help="folder of CIFAR-10 as image files: {train,test}/<class>/*.jpg")
    found.add_argument("--output", type=Path, default=RESULTS, help="folder for the rows, as JSON")
    return found


@torch.no_grad()
def logits(model: nn.Module, x: Tensor, batch_size: int = 250) -> Tensor:
    """Return the logits [N, C] of many samples."""
    return torch.cat([model(part) for part in x.split(batch_size)])


def rates(found: Tensor, y: Tensor, classes: Sequence[int]) -> tuple[float, float]:
    """Return the accuracy on some classes and on all others, in percent, from logits [N, C]."""
    right = (found.argmax(1) == y).double()
    inside = torch.isin(y, torch.tensor(list(classes)))
    return 100 * right[inside].mean().item(), 100 * right[~inside].mean().item()


def keep(name: str, rows: Iterable[Row], folder: Path, key: Sequence[str]) -> None:
    """Write rows to ``name.json``; rows of an earlier run stay, unless there are new ones alike in all of ``key``."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.json"
    old = json.loads(file.read_text())["rows"] if file.exists() else []
    new = [{**row, **_circumstances()} for row in rows]
    merged = sorted({_values(row, key): row for row in (*old, *new)}.values(), key=lambda row: _values(row, key))
    file.write_text('{"rows": [\n' + ",\n".join(json.dumps(row) for row in merged) + "\n]}\n")


def _values(row: Row, key: Sequence[str]) -> tuple[Any, ...]:
    return tuple(tuple(row[name]) if isinstance(row[name], list) else row[name] for name in key)


def _circumstances() -> Row:
    command = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent, check=False).stdout  # noqa: S603
    given = [Path(sys.argv[0]).name, *sys.argv[1:]]
    # folders are those of one machine
    shown = ["FOLDER" if before in FOLDERS else word for before, word in zip(["", *given], given, strict=False)]
    return {
        "command": shlex.join(shown),
        "commit": commit.strip(),
        "date": datetime.now(timezone.utc).date().isoformat(),
        "machine": platform.machine(),
        "torch": torch.__version__,
    }
