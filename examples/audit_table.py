"""Print what is left of a class inside a network, beside the original. For examples."""

from collections.abc import Iterator

import fastforget

INSIDE = ("with ", "linear probe", "nearest class mean", "again")  # how the metrics begin


def rows(report: fastforget.AuditReport, cls: int) -> Iterator[tuple[str, float | None, float | None]]:
    """Yield a title, the share that the original recognises, and the share that is recognised now."""
    yield "the class", report.per_class["original"][cls], report.per_class["model"][cls]
    rest = report.metrics["test accuracy"]
    yield "other classes, of samples given", rest.original, rest.value
    for name, metric in report.metrics.items():
        if name.startswith(INSIDE):
            yield f"the class, {name}", metric.original, metric.value


def print_row(title: str, original: float | None, now: float | None) -> None:
    """Print one line of the table, in percent."""
    shown = ("" if value is None else f"{100 * value:.1f}" for value in (original, now))
    print(f"{title:36} " + " ".join(f"{value:>9}" for value in shown))


def print_table(report: fastforget.AuditReport, cls: int) -> None:
    """Print the table."""
    print(f"{'recognised, percent':36} {'original':>9} {'now':>9}")
    for title, original, now in rows(report, cls):
        print_row(title, original, now)
