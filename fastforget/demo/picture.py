"""The demo's picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from fastforget.demo.results import DemoResult, class_accuracies

__all__ = ["draw_picture"]

_INK = "#22303c"
_ACCENT = "#d1495b"
_MUTED = "#9aa5b1"


def draw_picture(result: DemoResult, path: Path) -> None:
    """Draw the accuracies after forgetting each class, predictions after the first, and how soon that is learnt again.

    Args:
        result: What was measured.
        path: The file; its suffix decides the type.
    """
    figure = Figure(figsize=(17, 6.4), facecolor="white")
    FigureCanvasAgg(figure)
    figure.set_layout_engine("constrained", w_pad=0.15, h_pad=0.12)
    overview, after, again = figure.subplots(1, 3, width_ratios=[1.16, 1, 1])
    first = result.forgotten[0]
    name = result.class_names[first.cls]
    _draw_overview(overview, result)
    _draw_confusion(after, first.confusion, result.class_names, f"After forgetting {name}", first.cls)
    _draw_again(again, result, name)
    times = sorted(row.milliseconds for row in result.forgotten)
    figure.suptitle(
        f"{result.dataset}: one call, {times[len(times) // 2]:.0f} ms, "
        f"{100 * first.share:.1f} % of the parameters, no data",
        fontsize=17,
        color=_INK,
        weight="bold",
    )
    figure.savefig(path, dpi=120)


def _draw_overview(axes: Axes, result: DemoResult) -> None:
    """Draw the accuracy of each class: in columns, for the original and for each forgotten class, in rows."""
    matrices = [result.original.confusion, *(row.confusion for row in result.forgotten)]
    values = 100 * np.array([class_accuracies(matrix) for matrix in matrices])
    axes.imshow(values, cmap="Blues", vmin=0, vmax=130)  # 130: on the darkest blue, numbers are hard to read
    _write_cells(axes, values, "{:.0f}", least=0)
    for position, row in enumerate(result.forgotten, start=1):
        _outline(axes, (row.cls - 0.5, position - 0.5), width=1)
    axes.axhline(0.5, color="white", linewidth=5)
    labels = ["original", *(f"forget {result.class_names[row.cls]}" for row in result.forgotten)]
    _label(axes, "Accuracy of every class [%]", ("class", ""), list(result.class_names), labels)


def _draw_confusion(axes: Axes, matrix: Tensor, names: tuple[str, ...], title: str, cls: int) -> None:
    """Draw a confusion matrix as shares of each row: true classes in rows, predicted ones in columns."""
    values = (100 * matrix / matrix.sum(1, keepdim=True).clamp_min(1)).to(torch.float64).numpy()
    axes.imshow(values, cmap="Blues", vmin=0, vmax=130)
    _write_cells(axes, values, "{:.0f}", least=0.5)
    _outline(axes, (-0.5, cls - 0.5), width=len(names))
    _label(axes, f"{title}: predictions [%]", ("predicted", "true"), list(names), list(names))


def _draw_again(axes: Axes, result: DemoResult, name: str) -> None:
    """Draw how the first forgotten class comes back while all classes are learnt again from a few images."""
    colours = {"original": _MUTED, "forgotten": _ACCENT, "retrained": _INK}
    widths = {"original": 2.0, "forgotten": 3.0, "retrained": 2.0}
    for model, curve in result.again.items():
        steps, accuracies = zip(*curve, strict=True)
        label = {"forgotten": f"{name} forgotten", "retrained": f"trained without {name}"}.get(model, model)
        axes.plot(
            steps,
            100 * np.array(accuracies),
            "o-",
            color=colours[model],
            linewidth=widths[model],
            label=label,
            alpha=0.9,
        )
    axes.set_title(f"Learning again from ten images of each class:\naccuracy on {name} [%]", fontsize=13, color=_INK)
    axes.set_xlabel("steps of SGD", color=_INK)
    axes.set_ylim(-4, 104)
    axes.tick_params(labelcolor=_INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e9ec")
    axes.legend(frameon=False, labelcolor=_INK)


def _outline(axes: Axes, corner: tuple[float, float], width: int) -> None:
    """Draw a frame around some cells of a row."""
    axes.add_patch(Rectangle(corner, width, 1, fill=False, edgecolor=_ACCENT, linewidth=2.5, zorder=3, clip_on=False))


def _write_cells(
    axes: Axes, values: np.ndarray[tuple[int, ...], np.dtype[np.float64]], form: str, least: float
) -> None:
    """Write each number of at least `least` into its cell, in white on dark cells."""
    for (row, column), value in np.ndenumerate(values):
        if value >= least:
            colour = "white" if value > 70 else _INK  # above 70, white is easier to read
            axes.text(column, row, form.format(value), ha="center", va="center", fontsize=9, color=colour)


def _label(axes: Axes, title: str, labels: tuple[str, str], columns: list[str], rows: list[str]) -> None:
    axes.set_title(title, fontsize=13, color=_INK, pad=10)
    axes.set_xlabel(labels[0], color=_INK)
    axes.set_ylabel(labels[1], color=_INK)
    slanted = max(len(name) for name in columns) > 2  # longer names do not fit under a cell
    axes.set_xticks(range(len(columns)), columns, rotation=40 if slanted else 0, ha="right" if slanted else "center")
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(length=0, labelcolor=_INK)
    axes.spines[:].set_visible(False)
    # white lines between the cells
    axes.set_xticks(np.arange(1, len(columns)) - 0.5, minor=True)
    axes.set_yticks(np.arange(1, len(rows)) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1)
    axes.tick_params(which="minor", length=0)
