"""Recorded benchmark results: reading them, and the figures in them that bars and plots refer to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alternate import ratio

FOLDER = Path(__file__).parent / "results"
Entry = dict[str, Any]


def load(folder: Path = FOLDER) -> list[dict[str, Any]]:
    """Return all results of benchmarks, the oldest first; each says in ``name`` which file it is."""
    files = [{"name": file.stem, **json.loads(file.read_text())} for file in sorted(folder.glob("bench-*.json"))]
    return sorted(files, key=lambda result: str(result["date"]))


def figure(entry: Entry, name: str) -> float | None:
    """Return a group's figure of this name, or the ratio of two candidates' times for ``"a / b"``, or None."""
    if name in entry["figures"]:
        return float(entry["figures"][name])
    candidate, _, baseline = name.partition(" / ")
    seconds = entry["seconds"]
    return ratio(seconds, candidate, baseline).median if candidate in seconds and baseline in seconds else None


def condensed(document: dict[str, Any]) -> Iterator[Entry]:
    """Yield the groups in a document of pytest-benchmark, those that the ``compared`` fixture has filed.

    Benchmarks that were timed alone become a group of one candidate for each.
    """
    for benchmark in document["benchmarks"]:
        extra = benchmark["extra_info"]
        if "group" in extra:
            seconds = {name: [float(f"{value:.4g}") for value in values] for name, values in extra["seconds"].items()}
            yield {**extra, "seconds": seconds}
            continue
        seconds = {benchmark["name"]: [float(f"{benchmark['stats']['median']:.4g}")]}
        yield {
            "group": benchmark["group"],
            "threads": extra["threads"],
            "clock": "wall time, not in turn",
            "baseline": benchmark["name"],
            "seconds": seconds,
            "verdicts": {},
            "figures": {},
        }
