"""A comparison as one page of HTML, plots included, that is read without a network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape

from fastforget.comparison.measures import GAP, MEASURES
from fastforget.comparison.plots import gap_against_time, of_measure
from fastforget.comparison.rows import Failure, Row
from fastforget.comparison.tables import Summaries, cell, measured

__all__ = ["page", "table"]

_STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem }
h1 { margin-bottom: 0 } h2 { margin-top: 2.5rem } .small { opacity: .75; font-size: .9rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem }
th, td { text-align: right; padding: .3rem .6rem; border-bottom: 1px solid #8c959f66; white-space: nowrap }
th:first-child, td:first-child, .words th, .words td { text-align: left }
.failed { border-left: 4px solid #cf222e; padding: .3rem .8rem; margin: .5rem 0 }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(24rem, 1fr)); gap: 1.5rem }
figure { margin: 0 } svg { width: 100%; height: auto; font: 12px system-ui, sans-serif; fill: currentColor }
"""


def page(summaries: Summaries, rows: Sequence[Row], failures: Sequence[Failure], measures: Sequence[str]) -> str:
    """Return the page.

    Args:
        summaries: What was measured, over seeds.
        rows: What was measured, with each seed.
        failures: What could not be measured.
        measures: Which columns the first table has.

    Returns:
        HTML; the same for the same rows.
    """
    seeds = sorted({row.seed for row in rows})
    counted = f"{len(seeds)} {'seeds' if len(seeds) > 1 else 'seed'} ({', '.join(map(str, seeds))})"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Comparison</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>Comparison</h1>
<p class="small">Mean ± sample standard deviation over {counted}. The yardstick is the network that was trained
again without the samples. A small gap to it is evidence, and proves nothing.</p>
{_failed(failures)}
{table(summaries, measures)}
<h2>Plots</h2>
<p class="small">Large marks are means, small ones seeds, lines deviations. Dashed: the retrained reference.</p>
<div class="plots">
{_plots(summaries, measures)}
</div>
<h2>All measures</h2>
{table(summaries, list(MEASURES))}
<h2>Methods</h2>
{_methods(rows)}
</body>
</html>
"""


def table(summaries: Summaries, measures: Sequence[str]) -> str:
    """Return a table of HTML.

    Args:
        summaries: What was measured.
        measures: Which columns.

    Returns:
        HTML.
    """
    names = measured(summaries, measures)
    lines = [["method", *(MEASURES[name].head for name in names)]]
    lines += [[method, *(cell(name, found.get(name)) for name in names)] for method, found in summaries.items()]
    return _table(lines)


def _table(lines: Sequence[Sequence[str]]) -> str:
    head, *body = lines
    texts = ["".join(f"<th>{escape(text)}</th>" for text in head)]
    texts += ["".join(f"<td>{escape(text)}</td>" for text in line) for line in body]
    rows = "\n".join(f"<tr>{text}</tr>" for text in texts)
    return f'<div class="wide"><table>\n{rows}\n</table></div>'


def _failed(failures: Sequence[Failure]) -> str:
    return "\n".join(
        f'<p class="failed"><b>{escape(failure.method)}</b>, seed {failure.seed}: {escape(failure.text)}</p>'
        for failure in failures
    )


def _plots(summaries: Summaries, measures: Sequence[str]) -> str:
    by_measure = {
        name: {method: found[name] for method, found in summaries.items() if name in found}
        for name in (*measured(summaries, measures), GAP, "time")
    }
    drawn = [gap_against_time(by_measure[GAP], by_measure["time"])]
    drawn += [of_measure(name, by_measure[name]) for name in measured(summaries, measures)]
    return "\n".join(f"<figure>{plot}</figure>" for plot in drawn if plot)


def _methods(rows: Sequence[Row]) -> str:
    """Say which function is behind each method, with its settings."""
    found = {row.method: row for row in rows if row.function}
    settings = {name: json.dumps(row.settings, ensure_ascii=False) for name, row in found.items()}
    versions = sorted({", ".join(f"{name} {number}" for name, number in row.versions.items()) for row in rows})
    lines = [["method", "function", "settings"], *([name, found[name].function, settings[name]] for name in found)]
    return (
        f'<div class="words">{_table(lines)}</div>\n<p class="small">Measured with {escape("; ".join(versions))}.</p>'
    )
