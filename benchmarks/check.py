"""Compare the newest recorded results with the bars of ``bars.toml``. Fail if one is missed or was not measured.

python benchmarks/check.py
python benchmarks/check.py --measured        # bars without results do not count
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import records
import tomllib

BARS = Path(__file__).parent / "bars.toml"
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Bar:
    """A bound on a figure, for every group that matches the pattern ``group``.

    ``where`` names another figure. The bar only counts where that figure keeps the same bound.
    """

    group: str
    figure: str
    at_most: float | None = None
    at_least: float | None = None
    threads: tuple[int, ...] = (1, 2)
    where: str | None = None

    def __post_init__(self) -> None:
        if (self.at_most is None) == (self.at_least is None):
            raise ValueError(f"a bar must have one of `at_most` and `at_least`: {self.group}, {self.figure}")

    @property
    def bound(self) -> str:
        """The bound as text."""
        return f"≤ {self.at_most:g}" if self.at_most is not None else f"≥ {self.at_least:g}"

    def kept(self, value: float) -> bool:
        """Say whether a value is within the bound. NaN is not."""
        return value <= self.at_most if self.at_most is not None else value >= (self.at_least or 0)


@dataclass(frozen=True)
class Finding:
    """The verdict on a bar in one group: ok, missed, does not apply, or not measured."""

    bar: Bar
    group: str
    threads: int
    value: float | None
    verdict: str
    source: str = ""


def load_bars(path: Path = BARS) -> list[Bar]:
    """Read the committed bars."""
    entries = tomllib.loads(path.read_text())["bar"]
    return [Bar(**{**entry, "threads": tuple(entry.get("threads", (1, 2)))}) for entry in entries]


def newest(kept: list[dict[str, Any]], bar: Bar, threads: int) -> dict[str, tuple[records.Entry, float, str]]:
    """Return, by group, the newest entry with the bar's figure, its value and the name of its file."""
    found = {}
    for result in kept:  # the oldest first
        for entry in result["groups"]:
            if entry["threads"] == threads and fnmatchcase(entry["group"], bar.group):
                value = records.figure(entry, bar.figure)
                if value is not None:
                    found[entry["group"]] = (entry, value, result["name"])
    return found


def check(bars: list[Bar], kept: list[dict[str, Any]]) -> Iterator[Finding]:
    """Yield a finding for every bar, number of threads and group."""
    for bar in bars:
        for threads in bar.threads:
            measured = newest(kept, bar, threads)
            if not measured:
                yield Finding(bar, bar.group, threads, None, NOT_MEASURED)
            for group, (entry, value, source) in measured.items():
                condition = None if bar.where is None else records.figure(entry, bar.where)
                applies = condition is None or bar.kept(condition)
                verdict = "ok" if bar.kept(value) else "missed" if applies else "does not apply"
                yield Finding(bar, group, threads, value, verdict, source)


def table(findings: list[Finding]) -> Iterator[str]:
    """Yield a line for each finding; columns are as wide as their widest cell."""
    lines = [
        (
            f.verdict,
            "" if f.value is None else f"{f.value:.3g}",
            f.bar.bound,
            f.group,
            f"{f.threads}",
            f.bar.figure,
            f.source,
        )
        for f in findings
    ]
    lines.insert(0, ("", "measured", "bar", "group", "threads", "figure", "results"))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        yield "  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=records.FOLDER, help="folder with bench-*.json")
    parser.add_argument("--bars", type=Path, default=BARS)
    parser.add_argument("--measured", action="store_true", help="do not fail for bars that were not measured")
    arguments = parser.parse_args()
    findings = list(check(load_bars(arguments.bars), records.load(arguments.results)))
    missed = [f for f in findings if f.verdict == "missed"]
    absent = [f for f in findings if f.verdict == NOT_MEASURED]
    print(*table(findings), sep="\n")
    print(f"{len(findings)} bars: {len(missed)} missed, {len(absent)} not measured")
    sys.exit(bool(missed or (absent and not arguments.measured)))


if __name__ == "__main__":
    main()
