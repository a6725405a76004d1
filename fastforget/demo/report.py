"""The demo's table and picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from rich import box
from rich.table import Table
from torch import Tensor

from fastforget.demo.results import DemoResult, class_accuracies, split_accuracy

INK = "#22303c"
ACCENT = "#d1495b"


def results_table(result: DemoResult) -> Table:
    """Builds the table: a row per forgotten class, their mean, and the model retrained without the first class.

    Args:
        result: What was measured.

    Returns:
        A table for rich's console.
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


def _cells(numbers: list[float]) -> list[str]:
    """Formats a row; a share of 1 stands for a model trained from scratch."""
    forget_before, remain_before, forget_after, remain_after, changed, share, milliseconds = numbers
    return [
        f"{100 * forget_before:.1f} → {100 * forget_after:5.1f}",
        f"{100 * remain_before:.1f} → {100 * remain_after:5.1f}",
        f"{changed:,.0f} ({share:.1%})" if share < 1 else "all",
        f"{milliseconds:,.{0 if milliseconds >= 1000 else 1}f}",  # five digits at most
    ]


def draw_picture(result: DemoResult, path: Path) -> None:
    """Draws the accuracy of every class after forgetting each, and the confusion before and after the first.

    Args:
        result: What was measured.
        path: The file; its suffix says the type.
    """
    figure = Figure(figsize=(17, 6.4), facecolor="white")
    FigureCanvasAgg(figure)
    figure.set_layout_engine("constrained", w_pad=0.15, h_pad=0.12)
    overview, before, after = figure.subplots(1, 3, width_ratios=[1.16, 1, 1])
    first = result.forgotten[0]
    name = result.class_names[first.cls]
    _draw_overview(overview, result)
    _draw_confusion(before, result.original.confusion, result.class_names, "Original", first.cls)
    _draw_confusion(after, first.confusion, result.class_names, f"After forgetting {name}", first.cls)
    times = sorted(row.milliseconds for row in result.forgotten)
    figure.suptitle(
        f"{result.dataset}: one call, {times[len(times) // 2]:.0f} ms, "
        f"{100 * first.share:.1f} % of the parameters, no data",
        fontsize=17,
        color=INK,
        weight="bold",
    )
    figure.savefig(path, dpi=120)


def _draw_overview(axes: Axes, result: DemoResult) -> None:
    """Rows: the original, then each forgotten class; columns: the accuracy of every class."""
    matrices = [result.original.confusion, *(row.confusion for row in result.forgotten)]
    values = 100 * np.array([class_accuracies(matrix) for matrix in matrices])
    axes.imshow(values, cmap="Blues", vmin=0, vmax=130)  # 130: the darkest blue would drown the numbers
    _write_cells(axes, values, "{:.0f}", least=0)
    for position, row in enumerate(result.forgotten, start=1):
        axes.add_patch(
            Rectangle(
                (row.cls - 0.5, position - 0.5),
                1,
                1,
                fill=False,
                edgecolor=ACCENT,
                linewidth=2.5,
                zorder=3,
                clip_on=False,
            )
        )
    axes.axhline(0.5, color="white", linewidth=5)
    labels = ["original", *(f"forget {result.class_names[row.cls]}" for row in result.forgotten)]
    _style(axes, "Accuracy of every class [%]", ("class", ""), list(result.class_names), labels)


def _draw_confusion(axes: Axes, matrix: Tensor, names: tuple[str, ...], title: str, cls: int) -> None:
    """Rows: true classes; columns: predicted ones; as a share of the row."""
    values = (100 * matrix / matrix.sum(1, keepdim=True).clamp_min(1)).to(torch.float64).numpy()
    axes.imshow(values, cmap="Blues", vmin=0, vmax=130)
    _write_cells(axes, values, "{:.0f}", least=0.5)
    axes.add_patch(
        Rectangle(
            (-0.5, cls - 0.5), len(names), 1, fill=False, edgecolor=ACCENT, linewidth=2.5, zorder=3, clip_on=False
        )
    )
    _style(axes, f"{title}: predictions [%]", ("predicted", "true"), list(names), list(names))


def _write_cells(
    axes: Axes, values: np.ndarray[tuple[int, ...], np.dtype[np.float64]], form: str, least: float
) -> None:
    """Writes every number of at least `least` into its cell, in white on dark ones."""
    for (row, column), value in np.ndenumerate(values):
        if value >= least:
            colour = "white" if value > 70 else INK  # where white becomes the more readable
            axes.text(column, row, form.format(value), ha="center", va="center", fontsize=9, color=colour)


def _style(axes: Axes, title: str, labels: tuple[str, str], columns: list[str], rows: list[str]) -> None:
    axes.set_title(title, fontsize=13, color=INK, pad=10)
    axes.set_xlabel(labels[0], color=INK)
    axes.set_ylabel(labels[1], color=INK)
    slanted = max(len(name) for name in columns) > 2  # what fits under a cell
    axes.set_xticks(range(len(columns)), columns, rotation=40 if slanted else 0, ha="right" if slanted else "center")
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(length=0, labelcolor=INK)
    axes.spines[:].set_visible(False)
    # White lines between the cells.
    axes.set_xticks(np.arange(1, len(columns)) - 0.5, minor=True)
    axes.set_yticks(np.arange(1, len(rows)) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1)
    axes.tick_params(which="minor", length=0)
