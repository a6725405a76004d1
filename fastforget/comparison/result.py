"""The result of a comparison, and the ways to show it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fastforget.comparison.page import page, table
from fastforget.comparison.rows import Failure, Row
from fastforget.comparison.summary import Summary, summarise
from fastforget.comparison.tables import as_csv, as_latex, as_text
from fastforget.files.durable import whole_files

__all__ = ["Comparison"]


@dataclass(frozen=True)
class Comparison:
    """What a comparison measured.

    Attributes:
        rows: For each seed those of the original, of the retrained references, and of each method.
        failures: The methods that could not be measured, with the error.
        methods: The names of the rows, in the order of tables.
        measures: The measures that tables show.
        folder: Where everything is kept.
        measured: How many rows this call measured; the others were there.
    """

    rows: tuple[Row, ...]
    failures: tuple[Failure, ...]
    methods: tuple[str, ...]
    measures: tuple[str, ...]
    folder: Path
    measured: int

    @cached_property
    def summaries(self) -> Mapping[str, Mapping[str, Summary]]:
        """Mean and sample standard deviation over seeds, by method and measure; shares lie in [0, 1]."""
        return summarise(self.rows, self.methods)

    def to_csv(self) -> str:
        """Return all measures as CSV: a line for each method, mean and deviation in two columns; shares in [0, 1]."""
        return as_csv(self.summaries)

    def to_latex(self) -> str:
        """Return the table as a ``tabular`` of LaTeX, which needs the package booktabs."""
        return as_latex(self.summaries, self.measures)

    def to_html(self) -> str:
        """Return a page with tables and plots that needs nothing beside itself to be read."""
        return page(self.summaries, self.rows, self.failures, self.measures)

    def save(self) -> tuple[Path, Path, Path]:
        """Write comparison.csv, comparison.tex and comparison.html into the folder.

        Returns:
            The files.
        """
        names = [self.folder / f"comparison.{kind}" for kind in ("csv", "tex", "html")]
        texts = (self.to_csv(), self.to_latex(), self.to_html())
        with whole_files(*names) as drafts:
            for draft, text in zip(drafts, texts, strict=True):
                draft.write_text(text, encoding="utf-8")
        return names[0], names[1], names[2]

    def describe(self) -> dict[str, Any]:
        """Return all of it as plain data for JSON."""
        return {
            "folder": str(self.folder),
            "measured": self.measured,
            "rows": [row.describe() for row in self.rows],
            "failures": [asdict(failure) for failure in self.failures],
            "methods": {
                method: {name: {"mean": found.mean, "deviation": found.deviation} for name, found in measures.items()}
                for method, measures in self.summaries.items()
            },
        }

    def __repr__(self) -> str:
        """Summarise in one line."""
        return (
            f"Comparison(methods={list(self.summaries)}, seeds={sorted({row.seed for row in self.rows})}, "
            f"failures={len(self.failures)}, folder={str(self.folder)!r})"
        )

    def __str__(self) -> str:
        """Return the table for the terminal: mean ± sample standard deviation over seeds."""
        failed = [f"! {failure.method}, seed {failure.seed}, failed: {failure.text}" for failure in self.failures]
        return "\n".join([as_text(self.summaries, self.measures), *([""] if failed else []), *failed])

    def _repr_html_(self) -> str:
        """Return the table for a notebook."""
        return table(self.summaries, self.measures)
