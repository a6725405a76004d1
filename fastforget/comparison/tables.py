"""The table of a comparison: for the terminal, as CSV and for LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

from fastforget.classifier.text_table import format_table
from fastforget.comparison.measures import MEASURES
from fastforget.comparison.summary import Summary

__all__ = ["Summaries", "as_csv", "as_latex", "as_text", "cell", "measured"]

Summaries = Mapping[str, Mapping[str, Summary]]  # by method and measure

_WIDTH = 100  # of lines on the terminal
_SPECIAL = {
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
}
_SPECIAL |= {"^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}


def measured(summaries: Summaries, measures: Sequence[str]) -> list[str]:
    """Return those of some measures that there are values of, in order."""
    return [name for name in measures if any(name in found for found in summaries.values())]


def cell(name: str, summary: Summary | None, between: str = " ± ") -> str:
    """Return a mean with its deviation.

    Args:
        name: The measure.
        summary: What it is; None for an empty text.
        between: What stands between both.

    Returns:
        The text, without the unit.
    """
    if summary is None:
        return ""
    measure = MEASURES[name]
    deviation = "" if summary.deviation is None else between + measure.text(summary.deviation)
    return measure.text(summary.mean) + deviation


def as_text(summaries: Summaries, measures: Sequence[str]) -> str:
    """Return the table for the terminal, in parts that are not too wide for it.

    Args:
        summaries: What was measured.
        measures: Which columns.

    Returns:
        The text.
    """
    methods = list(summaries)
    columns = [
        [MEASURES[name].head, *(cell(name, summaries[method].get(name)) for method in methods)]
        for name in measured(summaries, measures)
    ]
    first = ["method", *methods]
    parts: list[list[list[str]]] = []
    for column in columns:
        if not parts or _width([*parts[-1], column]) > _WIDTH:
            parts.append([first])
        parts[-1].append(column)
    return "\n\n".join(format_table(list(zip(*part, strict=True))) for part in parts)


def _width(columns: Sequence[Sequence[str]]) -> int:
    return sum(max(map(len, column)) + 2 for column in columns) - 2


def as_csv(summaries: Summaries) -> str:
    """Return all measures, not scaled: a line for each method, two columns for each measure.

    Args:
        summaries: What was measured.

    Returns:
        The text.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    names = measured(summaries, list(MEASURES))
    writer.writerow(["method", "seeds", *(title for name in names for title in (name, f"{name}: deviation"))])
    for method, found in summaries.items():
        seeds = max((len(summary.values) for summary in found.values()), default=0)
        numbers: list[float | None] = []
        for name in names:
            summary = found.get(name)
            numbers += [None, None] if summary is None else [summary.mean, summary.deviation]
        writer.writerow([method, seeds, *("" if number is None else repr(number) for number in numbers)])
    return file.getvalue()


def as_latex(summaries: Summaries, measures: Sequence[str]) -> str:
    r"""Return the table for LaTeX; it needs the package booktabs.

    Args:
        summaries: What was measured.
        measures: Which columns.

    Returns:
        A ``tabular``.
    """
    names = measured(summaries, measures)
    lines = [["method", *(_escaped(MEASURES[name].head) for name in names)]]
    for method, found in summaries.items():
        texts = (cell(name, found.get(name), r" \pm ") for name in names)
        lines.append([_escaped(method), *(f"${text}$" if text else "" for text in texts)])
    head, *body = (" & ".join(line) + r" \\" for line in lines)
    first = [rf"\begin{{tabular}}{{l{'r' * len(names)}}}", r"\toprule", head, r"\midrule"]
    return "\n".join([*first, *body, r"\bottomrule", r"\end{tabular}", ""])


def _escaped(text: str) -> str:
    return "".join(_SPECIAL.get(letter, letter) for letter in text)
