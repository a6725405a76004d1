"""The result of an audit: metrics with their targets, findings, and what plots are made from."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, Literal

__all__ = ["AuditReport", "Finding", "Metric", "shown"]


@dataclass(frozen=True)
class Metric:
    """One number of an audit.

    Attributes:
        name: What it is called.
        value: Of the model, or None if it cannot be said.
        target: What is best: "retrained", to be as a model that never saw the samples is; "higher"; "lower"; or a
            number, to be near to.
        meaning: What it is, with its unit, in a sentence.
        original: Of the model before, where given.
        retrained: Of the retrained model, where given.
        error: Standard error, where known.
    """

    name: str
    value: float | None
    target: Literal["retrained", "higher", "lower"] | float
    meaning: str
    original: float | None = None
    retrained: float | None = None
    error: float | None = None

    @property
    def gap(self) -> float | None:
        """The distance to the retrained model, or to the number that is the target; None if neither is known."""
        goal = self.retrained if self.retrained is not None else self.target
        return abs(self.value - goal) if self.value is not None and not isinstance(goal, str) else None


@dataclass(frozen=True)
class Finding:
    """Something that speaks against the model.

    Attributes:
        kind: "remembers", "over-forgotten", "damaged" or "trigger".
        text: What was found.
    """

    kind: Literal["remembers", "over-forgotten", "damaged", "trigger"]
    text: str


@dataclass(frozen=True)
class AuditReport:
    """What an audit found.

    It is evidence, not a certificate: attacks that find nothing do not show that there is nothing.

    Attributes:
        model: Fingerprint of the audited model.
        created: When, UTC, ISO 8601.
        metrics: By name.
        findings: What speaks against the model; none does not mean that all is well.
        per_class: Accuracy on test samples of each class, by model: "model", "original", "retrained".
        losses: Losses of the samples to forget, of those that remain and of unseen ones.
        confidences: The largest probabilities of the same.
        curves: Accuracy on the samples to forget while they are learnt again, by model.
        scores: Of the loss attack on samples to forget and on unseen ones.
        seconds: Wall time of the audit by phase, after that of the method where it is known.
    """

    model: str
    created: str
    metrics: Mapping[str, Metric]
    findings: Sequence[Finding]
    per_class: Mapping[str, Sequence[float | None]]
    losses: Mapping[str, Sequence[float]] = field(repr=False)
    confidences: Mapping[str, Sequence[float]] = field(repr=False)
    curves: Mapping[str, Sequence[float]] = field(repr=False)
    scores: Mapping[str, Sequence[float]] = field(repr=False)
    seconds: Mapping[str, float] = field(repr=False)

    @property
    def gap(self) -> float | None:
        """The mean distance to the retrained model over the accuracies and the loss attack, or None without one.

        The average gap of Fan et al., "SalUn", ICLR 2024, in [0, 1].
        """
        names = ("forget accuracy", "remain accuracy", "test accuracy", "attack: loss")
        gaps = [self.metrics[name].gap for name in names if self.metrics[name].retrained is not None]
        known = [gap for gap in gaps if gap is not None]
        return sum(known) / len(known) if len(known) == len(names) else None

    def describe(self) -> dict[str, Any]:
        """Return all of it as plain data for JSON, without the values of single samples."""
        return {
            "model": self.model,
            "created": self.created,
            "metrics": {name: {**asdict(metric), "gap": metric.gap} for name, metric in self.metrics.items()},
            "findings": [asdict(finding) for finding in self.findings],
            "average_gap": self.gap,
            "per_class": {name: list(values) for name, values in self.per_class.items()},
            "curves": {name: list(values) for name, values in self.curves.items()},
            "seconds": dict(self.seconds),
        }

    def save(self, path: str | PathLike[str]) -> None:
        """Write `describe` as JSON.

        Args:
            path: The file; overwritten if it exists.
        """
        text = json.dumps(self.describe(), indent=2, allow_nan=False)
        Path(path).write_text(text + "\n", encoding="utf-8")

    def save_html(self, path: str | PathLike[str]) -> None:
        """Write a page with tables and plots that needs nothing beside itself to be read.

        Args:
            path: The file; overwritten if it exists.

        Raises:
            ModuleNotFoundError: There is no matplotlib.
        """
        try:
            from fastforget.audit.page import page  # noqa: PLC0415 (not every installation has matplotlib)
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("the page needs matplotlib: pip install matplotlib") from error
        Path(path).write_text(page(self), encoding="utf-8")

    def __str__(self) -> str:
        """Return a table for the terminal, and the findings."""
        rows = [("metric", "model", "original", "retrained", "best")]
        for metric in self.metrics.values():
            best = metric.target if isinstance(metric.target, str) else f"{metric.target:g}"
            best = "as retrained" if best == "retrained" else best
            rows.append((metric.name, shown(metric.value), shown(metric.original), shown(metric.retrained), best))
        widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        lines.insert(1, "  ".join("-" * width for width in widths))
        found = [f"! {finding.kind}: {finding.text}" for finding in self.findings]
        return "\n".join(["Audit report", "", *lines, "", *(found or ["nothing found that speaks against the model"])])


def shown(value: float | None) -> str:
    """Return a number for a table, nothing for none."""
    if value is None or math.isnan(value):
        return ""
    return f"{value:.3f}" if abs(value) < 100 and value != int(value) else f"{value:g}"
