"""Write docs/results/speed.md from the recorded results.

python benchmarks/speed_page.py              # from what benchmarks/results holds now
python benchmarks/speed_page.py --collect    # first adds what git knows of earlier results to speed-history.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import check
import records

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
HISTORY, INSTRUCTIONS = RESULTS / "speed-history.json", RESULTS / "instructions.json"
PAGE = ROOT / "docs" / "results" / "speed.md"
OWN = "fastforget"

HEAD = """# Speed, and its history

`python benchmarks/speed_page.py` writes this page from `benchmarks/results/`. Each file there names its
machine, command and date. [Kernels](kernels.md) says what was measured and what to see in it.

Times on shared machines jump. So this page has ratios of times that were measured in turn in one
process, and counts of instructions, which do not jump at all.

## Beside others

Times divided by that of the baseline, the median over rounds. Less is faster.

| what | threads | baseline | fastforget | others |
|---|--:|---|--:|---|
"""
MIDDLE = """
## Over time

The figures that have a bar in `benchmarks/bars.toml` and were recorded more than once, with every value.
Some bars count only under a condition that is named there. `make bench-check` says which of the newest
figures miss their bars; `make bench-history` plots the results.

| what | threads | figure | bar | values, the oldest first |
|---|--:|---|---|---|
"""
COUNTS = """
## Instructions of the kernels

Counted by valgrind on AVX2. `make instructions`, in every run of CI, fails where a kernel takes over 2 %
more than is kept here. "Before" is what was kept first.

| kernel | instructions | per multiply-add, or element | ÷ before |
|---|--:|--:|--:|
"""
END = """
## Compare with a release

The instructions, anywhere:

    make instructions KEEP="--against v0.1.0"

Times, on a quiet machine: measure both versions there, then let pytest-benchmark compare.

    git checkout v0.1.0
    make bench NAME=before PYTEST_ARGS="-k fisher" && cp .benchmarks/last.json before.json
    git checkout main
    make bench NAME=after PYTEST_ARGS="-k fisher" && cp .benchmarks/last.json after.json
    .venv/bin/pytest-benchmark compare before.json after.json --group-by=name --columns=median,iqr
"""


def page(kept: list[dict[str, Any]], history: dict[str, Any], counts: dict[str, Any]) -> str:
    """Return the page: of results, of figures that were recorded earlier, and of counted instructions."""
    over_time, counted = _over_time(history["figures"]), _counts(history, counts)
    return "".join([HEAD, *_beside(kept), MIDDLE, *over_time, COUNTS, *counted, END])


def _beside(kept: list[dict[str, Any]]) -> Iterator[str]:
    newest = {(entry["group"], entry["threads"]): entry for result in kept for entry in result["groups"]}
    for (group, threads), entry in sorted(newest.items()):
        ratios = {name: ratio["median"] for name, ratio in entry.get("ratios", {}).items()}
        if OWN not in ratios or len(ratios) < 2:
            continue
        wrong = {name for name, verdict in entry["verdicts"].items() if not verdict.startswith("ok")}
        others = [(value, name) for name, value in ratios.items() if name not in {OWN, entry["baseline"], *wrong}]
        said = "; ".join(f"{name} {value:.2f}" for value, name in sorted(others))
        yield f"| {group} | {threads} | {entry['baseline']} | {ratios[OWN]:.2f} | {said or 'none'} |\n"


def _over_time(figures: list[dict[str, Any]]) -> Iterator[str]:
    rows: dict[tuple[str, int, str, str], list[str]] = {}
    for found in sorted(figures, key=lambda one: str(one["date"])):
        row = rows.setdefault((found["group"], found["threads"], found["figure"], found["bound"]), [])
        row.append(f"{found['value']:.3g} ({found['date'][:10]})")
    for (group, threads, figure, bound), values in sorted(rows.items()):
        if len(values) > 1:
            yield f"| {group} | {threads} | {figure} | {bound} | {', '.join(values)} |\n"


def _counts(history: dict[str, Any], counts: dict[str, Any]) -> Iterator[str]:
    for name, found in counts["kernels"].items():
        before = history["instructions"].get(name, found["instructions"])
        number, work = found["instructions"], found["work"]
        yield f"| {name} | {number:,} | {number / work:.3f} | {number / before:.3f} |\n"


def collected(history: dict[str, Any]) -> dict[str, Any]:
    """Return a history with what git, and the folder, have of results; nothing is dropped."""
    results = [json.loads(text) for text in _versions("benchmarks/results/bench-*.json")] + records.load()
    known = {tuple(found.values()): found for found in history["figures"]}
    for result in results:
        for found in _figures(result):
            known[tuple(found.values())] = found
    counts = [json.loads(text) for text in _versions(str(INSTRUCTIONS.relative_to(ROOT)))]
    first = {name: one["instructions"] for count in reversed(counts) for name, one in count["kernels"].items()}
    figures = sorted(known.values(), key=lambda one: (one["group"], one["figure"], one["threads"], one["date"]))
    return {"figures": figures, "instructions": first | history["instructions"]}


def _figures(result: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for bar in check.load_bars():
        for threads in bar.threads:
            for group, (_, value, _) in check.newest([{"name": "", **result}], bar, threads).items():
                yield {
                    "group": group,
                    "threads": threads,
                    "figure": bar.figure,
                    "bound": bar.bound,
                    "date": result["date"],
                    "value": float(f"{value:.4g}"),
                }


def _versions(pattern: str) -> Iterator[str]:
    """Yield each version of files that git has, the oldest first."""
    listed = _git("log", "--reverse", "--format=%H", "--", pattern)
    for commit in listed.split():
        for path in _git("diff-tree", "--root", "--no-commit-id", "--name-only", "-r", commit, "--", pattern).split():
            if _git("ls-tree", commit, "--", path):
                yield _git("show", f"{commit}:{path}")


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603


def read_history() -> dict[str, Any]:
    return json.loads(HISTORY.read_text()) if HISTORY.exists() else {"figures": [], "instructions": {}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collect", action="store_true", help="add what git knows of earlier results")
    history = read_history()
    if parser.parse_args().collect:
        history = collected(history)
        HISTORY.write_text(json.dumps(history, indent=0) + "\n")
    PAGE.write_text(page(records.load(), history, json.loads(INSTRUCTIONS.read_text())), encoding="utf-8")
    print(PAGE.relative_to(ROOT))


if __name__ == "__main__":
    main()
