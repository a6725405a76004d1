"""Plot over time every figure that has a bar, so that a slow-down is seen.

    python benchmarks/history.py --output fastforget-history.png

There is one panel per bar and number of threads. Each processor has a line of its own, since even ratios differ between
processors.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import check
import matplotlib as mpl
import records

Series = dict[str, list[tuple[int, float]]]


def series(kept: Sequence[dict[str, Any]], bar: check.Bar, threads: int) -> Series:
    """Return (index of the results, value) by processor and group."""
    found: Series = {}
    for index, result in enumerate(kept):
        for group, (_, value, _) in check.newest([result], bar, threads).items():
            label = f"{group} ({result['machine']['cpu']})"
            found.setdefault(label, []).append((index, value))
    return found


def plot(kept: Sequence[dict[str, Any]], bars: Sequence[check.Bar], output: Path) -> int:
    """Draw the panels that have a value; return how many."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - after the backend is chosen

    panels = [(bar, threads, series(kept, bar, threads)) for bar in bars for threads in bar.threads]
    panels = [panel for panel in panels if panel[2]]
    if not panels:
        return 0
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure, axes = plt.subplots(rows, columns, figsize=(5.5 * columns, 3 * rows), squeeze=False, layout="constrained")
    for axis, (bar, threads, lines) in zip(axes.flat, panels, strict=False):
        for label, points in lines.items():
            axis.plot(*zip(*points, strict=True), marker="o", label=label)
        axis.axhline(bar.at_most if bar.at_most is not None else bar.at_least, color="black", linestyle="--")
        axis.set_title(f"{bar.group}, threads: {threads}\n{bar.figure} {bar.bound}", fontsize=8)
        axis.set_xticks(range(len(kept)), [result["commit"][:7] for result in kept], rotation=60, fontsize=6)
        axis.legend(fontsize=5)
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    figure.savefig(output, dpi=120)
    plt.close(figure)
    return len(panels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=records.FOLDER, help="folder with bench-*.json")
    parser.add_argument("--output", type=Path, default=Path("fastforget-history.png"))
    arguments = parser.parse_args()
    kept = records.load(arguments.results)
    drawn = plot(kept, check.load_bars(), arguments.output)
    if not drawn:
        parser.error(f"no results in {arguments.results} have a figure with a bar")
    print(f"{arguments.output}: {drawn} figures over {len(kept)} results")


if __name__ == "__main__":
    main()
