"""The demo's table."""

from __future__ import annotations

import numpy as np
from rich import box
from rich.table import Table

from fastforget.demo.results import DemoResult, split_accuracy

__all__ = ["again_table", "results_table"]


def results_table(result: DemoResult) -> Table:
    """Build the table: a row for each forgotten class, their mean, and the model retrained without the first class.

    Args:
        result: What was measured.

    Returns:
        A table for the console of rich.
    """
    title = f"One-shot forgetting on {result.dataset}: accuracy in %, before → after"
    table = Table(title=title, box=box.SIMPLE_HEAD, title_style="bold")
    table.add_column("forgotten", no_wrap=True)
    for header in ("this class", "other classes", "parameters", "ms"):
        table.add_column(header, justify="right", no_wrap=True)
    original = result.original.confusion
    rows = []
    for row in result.forgotten:
        accuracies = [*split_accuracy(original, row.cls), *split_accuracy(row.confusion, row.cls)]
        rows.append([*accuracies, row.changed, row.share, row.milliseconds])
        table.add_row(result.class_names[row.cls], *_cells(rows[-1]))
    table.add_section()
    table.add_row("mean", *_cells(np.mean(rows, axis=0).tolist()), style="bold")
    first = result.forgotten[0].cls
    accuracies = [*split_accuracy(original, first), *split_accuracy(result.retrained.confusion, first)]
    name = f"{result.class_names[first]}: retrained"
    table.add_row(name, *_cells([*accuracies, 0, 1, result.retrained.seconds * 1e3]), style="dim")
    return table


def again_table(result: DemoResult) -> Table:
    """Build the table of learning again: how soon the first forgotten class comes back in each model.

    Args:
        result: What was measured.

    Returns:
        A table for the console of rich.
    """
    name = result.class_names[result.forgotten[0].cls]
    title = f"Learning all classes again from ten images of each: accuracy on {name} in %, after so many steps"
    table = Table(title=title, box=box.SIMPLE_HEAD, title_style="bold")
    table.add_column("model", no_wrap=True)
    for step, _ in result.again["original"]:
        table.add_column(str(step), justify="right", no_wrap=True)
    for model, curve in result.again.items():
        table.add_row(model, *(f"{100 * accuracy:.1f}" for _, accuracy in curve))
    return table


def _cells(numbers: list[float]) -> list[str]:
    """Format a row. A share of 1 stands for a model trained from scratch."""
    forget_before, remain_before, forget_after, remain_after, changed, share, milliseconds = numbers
    return [
        f"{100 * forget_before:.1f} → {100 * forget_after:5.1f}",
        f"{100 * remain_before:.1f} → {100 * remain_after:5.1f}",
        f"{changed:,.0f} ({share:.1%})" if share < 1 else "all",
        f"{milliseconds:,.{0 if milliseconds >= 1000 else 1}f}",  # five digits at most
    ]
