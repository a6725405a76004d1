"""Comparing unlearning methods: train, forget, measure, keep; what is there already is not done again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from os import PathLike
from pathlib import Path
from typing import Any

from fastforget.classifier.progress import progress_bar
from fastforget.comparison.config import read_config
from fastforget.comparison.measuring import SeedStudy
from fastforget.comparison.networks import Networks
from fastforget.comparison.plan import Plan, read_plan
from fastforget.comparison.result import Comparison
from fastforget.comparison.rows import Failure, Row
from fastforget.comparison.store import RowStore

__all__ = ["compare"]

_LOG = logging.getLogger(__name__)


def compare(
    config: str | PathLike[str] | Mapping[str, Any],
    *,
    output: str | PathLike[str] | None = None,
    progress: bool = False,
) -> Comparison:
    """Compare unlearning methods on one's own data, over seeds, beside networks that were trained again.

    For each seed an original is trained, or loaded, and at least one *retrained reference*: trained by the same recipe
    without the samples to forget. Each method edits a copy of the original, and `fastforget.audit` measures it. The
    results are means and sample standard deviations over seeds.

    Everything is kept in a folder: networks, a row for each seed and method the moment it is done (``rows.jsonl``), and
    the result as CSV, for LaTeX, and as a page with plots. A call with the same settings continues where another one
    ended. A row is measured again if the method's settings, the samples, the networks or the audit's settings differ;
    changes in your own functions are not seen.

    The keys of the configuration are described in the guide, see docs/guide/compare.md. In Python, functions and
    samples may stand where the file names them.

    Args:
        config: A TOML file, or what such a file holds.
        output: The folder; by default the key ``output``, else ``comparison`` beside the file.
        progress: Whether to show a bar, in notebooks and where standard error is a terminal; needs tqdm.

    Returns:
        The comparison. A method that fails is in its ``failures``, and is tried again by the next call.

    Raises:
        ImportError: A function cannot be found.
        OSError: A file cannot be found.
        RuntimeError: A function that makes networks or samples failed.
        TypeError: Something has the wrong type.
        ValueError: A key, name or setting is not known or does not fit, or a file is not what it should be.

    Nothing is trained before the configuration is found to be right.

    Example:
        >>> import tempfile, torch
        >>> from torch import nn
        >>> samples = torch.randn(90, 4, generator=torch.Generator().manual_seed(0)), torch.arange(90) % 3
        >>> config = {
        ...     "seeds": [0, 1],
        ...     "model": {"make": lambda: nn.Linear(4, 3)},
        ...     "training": {"epochs": 1},
        ...     "data": {"train": samples, "test": samples},
        ...     "forget": {"classes": [2]},
        ...     "methods": [{"method": "fine_tune", "epochs": 1}],
        ... }
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found = compare(config, output=folder)
        >>> list(found.summaries)
        ['original', 'retrained', 'fine_tune']
    """
    table, base = read_config(config)
    plan = read_plan(table, base)
    folder = Path(output) if output is not None else base / table.get("output", "comparison")
    folder.mkdir(parents=True, exist_ok=True)
    store = RowStore(folder / "rows.jsonl")
    with _bar(plan, shown=progress) as bar:
        rows, failures, measured = _measure(plan, folder, store, bar)
    found = Comparison(rows, failures, plan.rows, plan.measures, folder, measured)
    found.save()
    _LOG.info("compare: %r", found)
    return found


def _bar(plan: Plan, *, shown: bool) -> AbstractContextManager[Any]:
    if not shown:
        return nullcontext()
    total = len(plan.seeds) * len(plan.rows)
    bar: AbstractContextManager[Any] = progress_bar(total=total, desc="compare", unit="row", leave=False)
    return bar


def _measure(plan: Plan, folder: Path, store: RowStore, bar: Any) -> tuple[tuple[Row, ...], tuple[Failure, ...], int]:
    """Go through the rows of every seed, and measure those that are not there."""
    tell: Callable[[str], object] = (lambda _: None) if bar is None else bar.set_description
    networks = Networks(plan, folder / "networks", tell)
    rows: list[Row] = []
    failures: list[Failure] = []
    measured = 0
    for seed in plan.seeds:
        study = SeedStudy(plan, networks, seed)
        for task in study.tasks():
            tell(f"seed {seed}: {task.name}")
            row = store.get(task.key)
            if row is None:
                try:
                    row = study.measure(task)
                except Exception as error:  # noqa: BLE001 (a method may raise anything; the others go on)
                    failures.append(Failure(seed, task.name, f"{type(error).__name__}: {' '.join(str(error).split())}"))
                    _LOG.info("compare: %s failed", task.name, exc_info=True)
                else:
                    store.add(row)
                    measured += 1
            if row is not None:
                rows.append(row.called(task.name))
            if bar is not None:
                bar.update()
    return tuple(rows), tuple(failures), measured
