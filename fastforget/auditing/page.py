"""The audit as one page of HTML, plots included, that is read without a network."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from functools import cache
from html import escape
from importlib.resources import files

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from fastforget.auditing.finding import KINDS
from fastforget.auditing.metric import Metric, format_number
from fastforget.auditing.plots import Plot, plots_of
from fastforget.auditing.record import AuditRecord
from fastforget.auditing.thresholds import thresholds
from fastforget.classifier.class_names import name_class

__all__ = ["page"]

_BEST = {"retrained": "as retrained", "higher": "higher", "lower": "lower"}


def page(report: AuditRecord) -> str:
    """Return the page.

    Args:
        report: The audit.

    Returns:
        HTML.
    """
    plots = "\n".join(_plot(plot) for plot in plots_of(report))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Audit report</title>
<style>
{_style()}</style>
</head>
<body>
<main>
<h1>Audit report</h1>
<p class="small">Model {escape(report.model)}, {escape(report.created)}</p>
<h2>Verdict</h2>
{_verdict(report)}
{_findings(report)}
<h2>What could not be judged</h2>
{_limits(report)}
<h2>What was compared</h2>
{_compared(report)}
<h2>From when on something is a finding</h2>
{_listed(escape(text) for text in thresholds(report))}
<h2>Metrics</h2>
{_metrics(report)}
<h2>Plots</h2>
<div class="plots">
{plots}
</div>
</main>
</body>
</html>
"""


def _verdict(report: AuditRecord) -> str:
    """Say it in words: what was found, by kind, or that nothing was, and what that is worth."""
    open_points = len(report.cannot_judge)
    left = f" {_counted(open_points, 'question')} could not be judged, see below." if open_points else ""
    worth = "This is evidence, and proves nothing: attacks that find nothing do not show that there is nothing."
    kinds = list(dict.fromkeys(finding.kind for finding in report.findings))
    if not kinds:
        said = "<strong>Nothing was found that speaks against the model.</strong>"
        return f'<div class="verdict none"><p>{said}{left}</p><p>{worth}</p></div>'
    said = f"<strong>{_counted(len(report.findings), 'finding')} against the model.</strong>"
    meant = _listed(escape(KINDS[kind]) for kind in kinds)
    return f'<div class="verdict bad"><p>{said}{left}</p>\n{meant}\n<p>{worth}</p></div>'


def _findings(report: AuditRecord) -> str:
    found = (f"<b>{escape(finding.kind)}</b>: {escape(finding.text)}." for finding in report.findings)
    return "<h3>Findings</h3>\n" + _listed(found, "finding") if report.findings else ""


def _limits(report: AuditRecord) -> str:
    if not report.cannot_judge:
        return "<p>Everything that this audit looks at could be judged with what was given.</p>"
    return _listed((escape(limit) for limit in report.cannot_judge), "limit")


def _compared(report: AuditRecord) -> str:
    models = [name for name in ("original", "retrained") if name in report.per_class]
    texts = [f"The audited model beside the {' and the '.join(models)} one." if models else "The audited model alone."]
    if report.gap is not None:
        texts.append(f"Average gap to the retrained model: {100 * report.gap:.2f} points.")
    sets = (("forget", "to forget"), ("unseen", "unseen"), ("remain", "remaining"))
    counts = ", ".join(f"{len(report.losses[name])} {title}" for name, title in sets)
    texts.append(f"Samples in the plots of losses and probabilities: {counts}.")
    if report.names is not None:
        named = ", ".join(name_class(cls, report.names) for cls in range(len(report.names)))
        texts.append(f"Classes: {named}.")
    return "\n".join(f"<p>{escape(text)}</p>" for text in texts)


def _metrics(report: AuditRecord) -> str:
    novel = any(metric.novel for metric in report.metrics.values())
    head = ("metric", "audited", "original", "retrained", *["novel classes"] * novel, "best", "what it is")
    rows = [head, *(_cells(metric, novel=novel) for metric in report.metrics.values())]
    return _table(rows, "Empty cells were not measured.", "Metrics", last="meaning")


def _cells(metric: Metric, *, novel: bool) -> tuple[str, ...]:
    numbers = (metric.value, metric.original, metric.retrained, *[metric.of_novel] * novel)
    best = _BEST[metric.target] if isinstance(metric.target, str) else f"{metric.target:g}"
    return (metric.name, *map(format_number, numbers), best, metric.meaning)


def _plot(plot: Plot) -> str:
    caption = escape(plot.caption)
    numbers = _table(plot.rows, plot.caption, f"Numbers: {plot.caption}")
    return (
        f'<figure><div role="img" aria-label="{caption} The numbers are in the table below.">{_svg(plot.figure)}</div>'
        f"<figcaption>{caption}</figcaption>"
        f"<details><summary>The numbers</summary>\n{numbers}\n</details></figure>"
    )


def _table(rows: Sequence[tuple[str, ...]], caption: str, label: str, last: str = "number") -> str:
    """Return a table that scrolls where it is too wide, its head first; the first cell of each row names it."""
    places = range(len(rows[0]))
    kinds = ["", *["number"] * (len(places) - 2), last]
    head = "".join(
        f'<th scope="col" class="{kind}">{escape(cell)}</th>' for kind, cell in zip(kinds, rows[0], strict=True)
    )
    body = "\n".join(
        f'<tr><th scope="row">{escape(first)}</th>'
        + "".join(f'<td class="{kind}">{escape(cell)}</td>' for kind, cell in zip(kinds[1:], cells, strict=True))
        + "</tr>"
        for first, *cells in rows[1:]
    )
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{escape(label)}">\n<table>'
        f"<caption>{escape(caption)}</caption>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table>\n</div>"
    )


def _listed(items: Iterator[str], kind: str = "") -> str:
    named = f' class="{kind}"' if kind else ""
    return "<ul>\n" + "\n".join(f"<li{named}>{item}</li>" for item in items) + "\n</ul>"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _svg(figure: Figure) -> str:
    """Return the drawing; the same one for the same figure."""
    FigureCanvasSVG(figure)
    file = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "fastforget", "svg.fonttype": "path"}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    return text[text.index("<svg") :]


@cache
def _style() -> str:
    return files("fastforget.auditing").joinpath("page.css").read_text("utf-8")
