"""The result of an audit: as a table, as JSON and as a page."""

from __future__ import annotations

from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastforget.auditing.metric import format_number
from fastforget.auditing.record import AuditRecord
from fastforget.auditing.report_file import save_report
from fastforget.classifier.class_names import name_class
from fastforget.classifier.html_parts import facts, panel, table

if TYPE_CHECKING:
    from fastforget.files.signing import SigningKey

__all__ = ["AuditReport"]

_SHOWN = 4  # classes that get the largest shares


class AuditReport(AuditRecord):
    """What an audit measured and found, and the ways to show it; see `AuditRecord` for its attributes.

    It is evidence, not a certificate: attacks that find nothing do not show that there is nothing.
    """

    def describe(self) -> dict[str, Any]:
        """Return all of it as plain data for JSON, without the values of single samples."""
        return {
            "model": self.model,
            "created": self.created,
            "metrics": {name: {**asdict(metric), "gap": metric.gap} for name, metric in self.metrics.items()},
            "findings": [asdict(finding) for finding in self.findings],
            "cannot_judge": list(self.cannot_judge),
            "average_gap": self.gap,
            "per_class": {name: list(values) for name, values in self.per_class.items()},
            "mass": {name: list(values) for name, values in self.mass.items()},
            "curves": {name: list(values) for name, values in self.curves.items()},
            "again": {name: [list(pair) for pair in pairs] for name, pairs in self.again.items()},
            "seconds": dict(self.seconds),
            "class_names": None if self.names is None else list(self.names),
        }

    def save(self, path: str | PathLike[str], *, key: SigningKey | None = None) -> None:
        """Write `describe` as JSON; `load_report` reads it and checks who signed.

        Args:
            path: The file; overwritten if it exists.
            key: Signs it, see `fastforget.files.signing`.
        """
        save_report(path, self.describe(), key)

    def save_html(self, path: str | PathLike[str]) -> None:
        """Write a page with tables and plots that needs nothing beside itself to be read.

        Args:
            path: The file; overwritten if it exists.

        Raises:
            ModuleNotFoundError: There is no matplotlib.
        """
        try:
            from fastforget.auditing.page import page  # noqa: PLC0415 (not every installation has matplotlib)
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("the page needs matplotlib: pip install matplotlib") from error
        Path(path).write_text(page(self), encoding="utf-8")

    def __repr__(self) -> str:
        """Summarise in one line."""
        kinds = [finding.kind for finding in self.findings]
        return (
            f"AuditReport(findings={kinds}, cannot_judge={len(self.cannot_judge)}, metrics={len(self.metrics)}, "
            f"model={self.model!r}, created={self.created!r})"
        )

    def _repr_html_(self) -> str:
        """Return the findings and the table for a notebook."""
        found = [(finding.kind, finding.text) for finding in self.findings]
        said = facts(found or [("findings", "nothing found that speaks against the model")])
        limits = facts([("cannot judge", limit) for limit in self.cannot_judge])
        mass = facts([("", line) for line in self._mass_lines() if line])
        return panel("Audit report", said, table(self._rows()), mass, limits)

    def _rows(self) -> list[tuple[str, ...]]:
        """Return the table of the metrics, its head first."""
        novel = any(metric.novel for metric in self.metrics.values())
        rows: list[tuple[str, ...]] = [("metric", "model", "original", "retrained", *["novel classes"] * novel, "best")]
        for metric in self.metrics.values():
            best = metric.target if isinstance(metric.target, str) else f"{metric.target:g}"
            best = "as retrained" if best == "retrained" else best
            numbers = (metric.value, metric.original, metric.retrained, *[metric.of_novel] * novel)
            rows.append((metric.name, *map(format_number, numbers), best))
        return rows

    def __str__(self) -> str:
        """Return a table for the terminal, and the findings."""
        rows = self._rows()
        widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        lines.insert(1, "  ".join("-" * width for width in widths))
        findings = [f"! {finding.kind}: {finding.text}" for finding in self.findings]
        limits = [f"? cannot judge {limit}" for limit in self.cannot_judge]
        said = [*limits, *([""] if limits else []), *(findings or ["nothing found that speaks against the model"])]
        return "\n".join(["Audit report", "", *lines, "", *self._mass_lines(), *said])

    def _mass_lines(self) -> list[str]:
        """Say where the test samples of forgotten classes go, the largest shares first."""
        lines = []
        for name, shares in self.mass.items():
            largest = sorted(enumerate(shares), key=lambda pair: -pair[1])[:_SHOWN]
            shown = ", ".join(
                f"{100 * share:.0f} % class {name_class(cls, self.names)}" for cls, share in largest if share > 0
            )
            lines.append(f"forgotten classes are taken for ({name}): {shown}")
        return [*lines, ""] if lines else []
