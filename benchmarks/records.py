"""Read recorded benchmark results, and the figures in them that bars and plots refer to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alternate import ratio

FOLDER = Path(__file__).parent / "results"
Entry = dict[str, Any]


def load(folder: Path = FOLDER) -> list[dict[str, Any]]:
    """Return all recorded results, the oldest first. Each has the name of its file in ``name``."""
    files = [{"name": file.stem, **json.loads(file.read_text())} for file in sorted(folder.glob("bench-*.json"))]
    return sorted(files, key=lambda result: str(result["date"]))


def figure(entry: Entry, name: str) -> float | None:
    """Return a group's figure by name; for ``"a / b"`` the ratio of two candidates' times; None if there is none."""
    if name in entry["figures"]:
        return float(entry["figures"][name])
    candidate, _, baseline = name.partition(" / ")
    seconds = entry["seconds"]
    return ratio(seconds, candidate, baseline).median if candidate in seconds and baseline in seconds else None


def condensed(document: dict[str, Any]) -> Iterator[Entry]:
    """Yield the groups of a pytest-benchmark document that the ``compared`` fixture has filed.

    A benchmark that was timed alone becomes a group of one candidate.
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
