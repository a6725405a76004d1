"""The plots of the page of an audit, each with its numbers as a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fastforget.auditing.metric import format_number
from fastforget.auditing.record import AuditRecord
from fastforget.classifier.class_names import name_class

__all__ = ["Plot", "plots_of", "roc_curve"]

_MODELS = {"model": ("#1f6feb", "audited"), "original": ("#8c959f", "original"), "retrained": ("#2da44e", "retrained")}
_SETS = {"forget": ("#cf222e", "to forget"), "unseen": ("#1f6feb", "unseen"), "remain": ("#8c959f", "remaining")}
_SMALLEST = 1e-4  # nats; losses below it are drawn there
_SHARES = (10, 25, 50, 75, 90)  # percent of samples
_ALARMS = (1, 5, 10, 25, 50)  # percent of unseen samples
_MOST = 12  # rows for a curve

Rows: TypeAlias = Sequence[tuple[str, ...]]


@dataclass(frozen=True)
class Plot:
    """A plot, and what it shows for who does not see it.

    Attributes:
        caption: What it shows.
        figure: The drawing.
        rows: Its numbers, the head of the table first; the first cell of each row names it.
    """

    caption: str
    figure: Figure
    rows: Rows


def plots_of(report: AuditRecord) -> Iterator[Plot]:
    """Draw what an audit measured.

    Args:
        report: The audit.

    Yields:
        The plots that there are.
    """
    for caption, draw, numbers in _PLOTS:
        figure = draw(report)
        if figure is not None:
            yield Plot(caption, figure, numbers(report))


def _by_class(report: AuditRecord, by_model: Mapping[str, Sequence[float | None]], what: str) -> Rows:
    """Return shares of each class, in percent."""
    count = len(next(iter(by_model.values())))
    head = ("class", *(f"{_MODELS[name][1]}, {what}" for name in by_model))
    return [head] + [
        (name_class(cls, report.names), *(_percent(values[cls]) for values in by_model.values()))
        for cls in range(count)
    ]


def _quantiles(values: Mapping[str, Sequence[float]], what: str) -> Rows:
    head = ("share of the samples", *(f"{title}: {what} at most" for _, title in _SETS.values()))
    found = {name: np.percentile(np.asarray(values[name]), _SHARES) for name in _SETS}
    return [head] + [
        (f"{share} %", *(format_number(float(found[name][place])) for name in _SETS))
        for place, share in enumerate(_SHARES)
    ]


def _roc_rows(report: AuditRecord) -> Rows:
    alarms, caught = roc_curve(report.scores["forget"], report.scores["unseen"])
    shares = np.interp(np.asarray(_ALARMS) / 100, alarms, caught)
    head = ("unseen samples taken for members", "samples to forget taken for members")
    return [head] + [(f"{alarm} %", f"{100 * share:.1f} %") for alarm, share in zip(_ALARMS, shares, strict=True)]


def _relearning_rows(report: AuditRecord) -> Rows:
    steps = range(len(next(iter(report.curves.values()))))
    head = ("step", *(f"{_MODELS[name][1]}, accuracy" for name in report.curves))
    return [head] + [
        (str(step), *(_percent(curve[step]) for curve in report.curves.values()))
        for step in steps[:: max(1, -(-len(steps) // _MOST))]
    ]


def _again_rows(report: AuditRecord) -> Rows:
    shares = {name: dict(pairs) for name, pairs in report.again.items()}
    steps = sorted({step for found in shares.values() for step in found})
    head = ("SGD steps", *(f"{_MODELS[name][1]}, accuracy" for name in shares))
    return [head] + [(str(step), *(_percent(found.get(step)) for found in shares.values())) for step in steps]


def _time_rows(report: AuditRecord) -> Rows:
    return [("phase", "seconds"), *((name, format_number(seconds)) for name, seconds in report.seconds.items())]


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.2, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


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


_PLOTS: Sequence[tuple[str, Callable[[AuditRecord], Figure | None], Callable[[AuditRecord], Rows]]] = (
    (
        "Accuracy on test samples of each class.",
        _per_class,
        lambda report: _by_class(report, report.per_class, "accuracy"),
    ),
    (
        "Losses. Samples that were forgotten are to lie as unseen ones do, not beyond them.",
        _losses,
        lambda report: _quantiles(report.losses, "loss, nats,"),
    ),
    (
        "The largest probability of each prediction.",
        _confidences,
        lambda report: _quantiles(report.confidences, "probability"),
    ),
    ("Telling samples to forget from unseen ones by their loss. The diagonal is chance.", _roc, _roc_rows),
    ("Accuracy on the samples to forget while they are learnt again.", _relearning, _relearning_rows),
    (
        "Accuracy on test samples of forgotten classes while ten samples of each class are learnt.",
        _again,
        _again_rows,
    ),
    (
        "Which classes the test samples of forgotten classes are taken for.",
        _mass,
        lambda report: _by_class(report, report.mass, "samples"),
    ),
    ("Where the time of the audit went, and that of the method where it is known.", _time, _time_rows),
)
