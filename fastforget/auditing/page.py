"""The audit as one page of HTML, plots included, that is read without a network."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from html import escape

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fastforget.auditing.metric import Metric, format_number
from fastforget.auditing.record import AuditRecord
from fastforget.classifier.class_names import name_class

__all__ = ["page", "roc_curve"]

_MODELS = {"model": ("#1f6feb", "audited"), "original": ("#8c959f", "original"), "retrained": ("#2da44e", "retrained")}
_SETS = {"forget": ("#cf222e", "to forget"), "unseen": ("#1f6feb", "unseen"), "remain": ("#8c959f", "remaining")}
_BEST = {"retrained": "as retrained", "higher": "higher", "lower": "lower"}
_SMALLEST = 1e-4  # nats; losses below it are drawn there

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1f2328; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1 { margin-bottom: 0 } h2 { margin-top: 2.5rem } .small { color: #59636e; font-size: .9rem }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .35rem .6rem; border-bottom: 1px solid #d1d9e0; vertical-align: top }
td.number, th.number { text-align: right } td:not(.small) { white-space: nowrap }
.finding { border-left: 4px solid #cf222e; background: #fff1f0; padding: .5rem .8rem; margin: .5rem 0 }
.none { border-left: 4px solid #59636e; background: #f6f8fa; padding: .5rem .8rem }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(24rem, 1fr)); gap: 1.5rem }
figure { margin: 0 } figcaption { font-size: .9rem; color: #59636e } svg { width: 100%; height: auto }
"""


def page(report: AuditRecord) -> str:
    """Return the page.

    Args:
        report: The audit.

    Returns:
        HTML.
    """
    plots = [
        ("Accuracy on test samples of each class.", _per_class(report)),
        ("Losses. Samples that were forgotten are to lie as unseen ones do, not beyond them.", _losses(report)),
        ("The largest probability of each prediction.", _confidences(report)),
        ("Telling samples to forget from unseen ones by their loss. The diagonal is chance.", _roc(report)),
        ("Accuracy on the samples to forget while they are learnt again.", _relearning(report)),
        ("Accuracy on test samples of forgotten classes while ten samples of each class are learnt.", _again(report)),
        ("Which classes the test samples of forgotten classes are taken for.", _mass(report)),
        ("Where the time of the audit went, and that of the method where it is known.", _time(report)),
    ]
    figures = "\n".join(
        f"<figure>{_svg(plot)}<figcaption>{escape(text)}</figcaption></figure>" for text, plot in plots if plot
    )
    gap = "" if report.gap is None else f" Average gap to the retrained model: {100 * report.gap:.2f} points."
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Audit report</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>Audit report</h1>
<p class="small">Model {escape(report.model)}, {escape(report.created)}.{gap} This is evidence, and proves nothing:
attacks that find nothing do not show that there is nothing.</p>
<h2>Findings</h2>
{_findings(report)}
{_limits(report)}
<h2>Metrics</h2>
{_table(report)}
<h2>Plots</h2>
{_names(report)}
<div class="plots">
{figures}
</div>
</body>
</html>
"""


def _findings(report: AuditRecord) -> str:
    if not report.findings:
        return '<p class="none">Nothing was found that speaks against the model.</p>'
    found = (f"<b>{escape(finding.kind)}</b>: {escape(finding.text)}." for finding in report.findings)
    return "\n".join(f'<p class="finding">{text}</p>' for text in found)


def _limits(report: AuditRecord) -> str:
    said = (f"<li>{escape(limit)}</li>" for limit in report.cannot_judge)
    text = "\n".join(said)
    return f'<p class="small">Not judged:</p>\n<ul class="small">\n{text}\n</ul>' if text else ""


def _names(report: AuditRecord) -> str:
    """Say what the classes are called whose numbers the plots have: a font need not have the letters of every name."""
    if report.names is None:
        return ""
    named = ", ".join(name_class(cls, report.names) for cls in range(len(report.names)))
    return f'<p class="small">Classes: {escape(named)}.</p>'


def _table(report: AuditRecord) -> str:
    novel = any(metric.novel for metric in report.metrics.values())
    numbers = ("audited", "original", "retrained", *["novel classes"] * novel)
    titles = ("<th>metric</th>", *(f"<th class=number>{name}</th>" for name in numbers))
    head = "".join((*titles, "<th>best</th>", "<th>what it is</th>"))
    rows = "\n".join(_row(metric, novel=novel) for metric in report.metrics.values())
    return f"<table>\n<tr>{head}</tr>\n{rows}\n</table>"


def _row(metric: Metric, *, novel: bool) -> str:
    numbers = (metric.value, metric.original, metric.retrained, *[metric.of_novel] * novel)
    best = _BEST[metric.target] if isinstance(metric.target, str) else f"{metric.target:g}"
    cells = "".join(f'<td class="number">{format_number(number)}</td>' for number in numbers)
    return (
        f'<tr><td>{escape(metric.name)}</td>{cells}<td>{best}</td><td class="small">{escape(metric.meaning)}</td></tr>'
    )


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.2, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _svg(figure: Figure) -> str:
    """Return the drawing; the same one for the same figure."""
    FigureCanvasSVG(figure)
    file = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "fastforget", "svg.fonttype": "path"}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    return text[text.index("<svg") :]


def _per_class(report: AuditRecord) -> Figure:
    figure = _bars(report.per_class)
    figure.axes[0].set(xlabel="class", ylabel="accuracy, %")
    return figure


def _bars(by_model: Mapping[str, Sequence[float | None]]) -> Figure:
    """Draw shares of each class, a bar for each model."""
    figure, axes = _figure()
    width = 0.8 / len(by_model)
    for place, (name, values) in enumerate(by_model.items()):
        color, label = _MODELS[name]
        shares = [100 * (value or 0.0) for value in values]
        axes.bar(np.arange(len(values)) + (place + 0.5) * width - 0.4, shares, width, color=color, label=label)
    axes.set(ylim=(0, 105))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


def _histogram(values: Mapping[str, Sequence[float]], bins: np.ndarray, label: str) -> Figure:
    figure, axes = _figure()
    for name, (color, title) in _SETS.items():
        found = np.clip(np.asarray(values[name]), bins[0], bins[-1])
        weights = np.full(len(found), 100 / len(found))
        axes.hist(found, bins.tolist(), weights=weights, histtype="step", linewidth=1.8, color=color, label=title)
    axes.set(xlabel=label, ylabel="samples, %")
    axes.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


def _losses(report: AuditRecord) -> Figure:
    largest = max(10.0, *(max(values) for values in report.losses.values()))
    figure = _histogram(report.losses, np.geomspace(_SMALLEST, largest, 30), "cross-entropy, nats")
    figure.axes[0].set_xscale("log")
    return figure


def _confidences(report: AuditRecord) -> Figure:
    return _histogram(report.confidences, np.linspace(0, 1, 26), "largest probability")


def roc_curve(members: Sequence[float], others: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Return the receiver operating characteristic: the shares of others and of members above each threshold."""
    thresholds = np.unique(np.concatenate([members, others]))[::-1]
    above, beside = (
        np.concatenate([[0.0], 1 - np.searchsorted(np.sort(scores), thresholds) / len(scores)])
        for scores in (members, others)
    )
    return beside, above


def _roc(report: AuditRecord) -> Figure:
    alarms, caught = roc_curve(report.scores["forget"], report.scores["unseen"])
    figure, axes = _figure()
    axes.set_aspect("equal")
    axes.plot(alarms, caught, color=_MODELS["model"][0])
    axes.plot([0, 1], [0, 1], color="#8c959f", linestyle=":")
    axes.set(xlabel="share of unseen samples taken for members", ylabel="share of those to forget")
    return figure


def _relearning(report: AuditRecord) -> Figure | None:
    if not report.curves:
        return None
    figure, axes = _figure()
    for name, curve in report.curves.items():
        color, label = _MODELS[name]
        axes.plot(100 * np.asarray(curve), color=color, label=label)
    axes.set(xlabel="step", ylabel="accuracy, %", ylim=(0, 105))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


def _again(report: AuditRecord) -> Figure | None:
    if not report.again:
        return None
    figure, axes = _figure()
    for name, pairs in report.again.items():
        color, label = _MODELS[name]
        steps, shares = zip(*pairs, strict=True)
        axes.plot(steps, 100 * np.asarray(shares), marker=".", color=color, label=label)
    axes.set(xlabel="SGD step", ylabel="accuracy, %", ylim=(0, 105))
    axes.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


def _mass(report: AuditRecord) -> Figure | None:
    if not report.mass:
        return None
    figure = _bars(report.mass)
    figure.axes[0].set(xlabel="predicted class", ylabel="samples, %")
    return figure


def _time(report: AuditRecord) -> Figure:
    figure, axes = _figure()
    names = list(report.seconds)[::-1]
    axes.barh(names, [report.seconds[name] for name in names], color=_MODELS["model"][0])
    axes.set(xlabel="seconds")
    return figure
