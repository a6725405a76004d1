"""Print what is left of a class inside a network, beside the original. For examples."""

from collections.abc import Iterator

import fastforget

INSIDE = ("with ", "linear probe", "nearest class mean", "again")  # how the metrics begin


Shares = tuple[float | None, ...]


def rows(report: fastforget.AuditReport, cls: int) -> Iterator[tuple[str, Shares]]:
    """Yield a title and the shares that are recognised: by the original, now, and of classes never seen."""
    yield "the class", (report.per_class["original"][cls], report.per_class["model"][cls])
    rest = report.metrics["test accuracy"]
    yield "other classes, of samples given", (rest.original, rest.value)
    for name, metric in report.metrics.items():
        if name.startswith(INSIDE):
            yield f"the class, {name}", (metric.original, metric.value, metric.of_novel)


def print_row(title: str, *shares: float | None) -> None:
    """Print one line of the table, in percent."""
    shown = ("" if value is None else f"{100 * value:.1f}" for value in shares)
    print((f"{title:36} " + " ".join(f"{value:>9}" for value in shown)).rstrip())


def print_table(report: fastforget.AuditReport, cls: int) -> None:
    """Print the table. Its last column is the mean of classes that the model never saw, where there are some."""
    novel = any(metric.novel for metric in report.metrics.values())
    print(f"{'recognised, percent':36} {'original':>9} {'now':>9}" + f" {'novel':>9}" * novel)
    for title, shares in rows(report, cls):
        print_row(title, *shares)
