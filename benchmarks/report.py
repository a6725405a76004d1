"""Print a table of ratios from pytest-benchmark's JSON, and keep the results for ``check.py`` and ``history.py``.

python benchmarks/report.py .benchmarks/last.json --save benchmarks/results/bench-NAME.json --command "make bench"
python benchmarks/report.py                  # print the newest kept results again
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import records
from alternate import ratio


def recorded(document: dict[str, Any], command: str) -> dict[str, Any]:
    """Return what is kept of pytest-benchmark's document: machine, command, date, commit and groups."""
    commit = document["commit_info"]
    return {
        "command": command,
        "date": document["datetime"],
        "commit": str(commit.get("id"))[:12] + ("-dirty" if commit.get("dirty") else ""),
        "machine": document["machine_info"]["fastforget"],
        "groups": list(records.condensed(document)),
    }


def rows(entry: records.Entry) -> Iterator[tuple[str, str, str]]:
    """Yield name, milliseconds and the rest: ratio to the baseline, quartiles and verdict, or a figure."""
    seconds, verdicts, baseline = entry["seconds"], entry["verdicts"], entry.get("baseline")
    for name, values in seconds.items():
        found = ratio(seconds, name, baseline)
        spread = "" if name == baseline else f"{found.low:.2f} to {found.high:.2f}, rounds: {found.rounds}"
        yield name, f"{1e3 * median(values):.1f} ms", f"{found.median:7.2f}  {spread:28}  {verdicts.get(name, '')}"
    for name, verdict in verdicts.items():
        if name not in seconds:
            yield name, "", f"{'-':>7}  {'':28}  {verdict}"
    for name, value in entry["figures"].items():
        yield name, "", f"{value:7.3g}"


def table(result: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of one table, with all groups below each other."""
    machine = result["machine"]
    yield f"{result['commit']}, {result['date'][:16]}, {result['command']}"
    yield f"{machine['cpu']} ({machine['simd']}), PyTorch {machine['torch']}, OpenMP waits {machine['omp_wait_policy']}"
    for entry in result["groups"]:
        clock = f", {entry['clock']}" if "clock" in entry else ""
        yield f"\n{entry['group']}, threads: {entry['threads']}{clock}"
        for name, milliseconds, rest in rows(entry):
            yield f"  {name:28} {milliseconds:>12} {rest}".rstrip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("document", nargs="?", type=Path, help="what pytest wrote to --benchmark-json")
    parser.add_argument("--save", type=Path, help="keep the results here")
    parser.add_argument("--command", default="make bench", help="the command that measured them")
    arguments = parser.parse_args()
    if arguments.document:
        result = recorded(json.loads(arguments.document.read_text()), arguments.command)
    else:
        kept = records.load()
        if not kept:
            parser.error(f"no results in {records.FOLDER}")
        result = kept[-1]
    print("\n".join(table(result)))
    if arguments.save:
        arguments.save.write_text(lines(result))


def lines(result: dict[str, Any]) -> str:
    """Return JSON with a line per group, so that diffs can be read."""
    head = {key: value for key, value in result.items() if key != "groups"}
    groups = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in result["groups"])
    return f'{json.dumps(head, indent=1, ensure_ascii=False)[:-2]},\n "groups": [\n{groups}\n]}}\n'


if __name__ == "__main__":
    main()
