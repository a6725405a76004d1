"""The page about speed is what the recorded results make."""

import json
import sys
from typing import Any

import pytest
import records
import speed_page

pytestmark = pytest.mark.skipif(sys.version_info < (3, 11), reason="reads TOML by the standard library")

ENTRY: dict[str, Any] = {
    "group": "fisher vgg16-bn-cifar b32",
    "threads": 1,
    "baseline": "forward+backward",
    "seconds": {"forward+backward": [1.0, 1.0], "fastforget": [0.8, 0.8], "other": [3.0, 3.0], "bad": [0.1, 0.1]},
    "verdicts": {"other": "ok in float64", "bad": "wrong: 1 of 2 tensors"},
    "ratios": {
        name: {"median": value}
        for name, value in {"forward+backward": 1.0, "fastforget": 0.8, "other": 3.0, "bad": 0.1}.items()
    },
    "figures": {},
}


def result(date: str, **changes: Any) -> dict[str, Any]:
    return {"name": "bench-x", "date": date, "groups": [{**ENTRY, **changes}]}


def test_the_page_is_up_to_date() -> None:
    counts = json.loads(speed_page.INSTRUCTIONS.read_text())
    made = speed_page.page(records.load(), speed_page.read_history(), counts)
    assert speed_page.PAGE.read_text(encoding="utf-8") == made, "run `python benchmarks/speed_page.py --collect`"


def test_the_history_has_what_is_recorded() -> None:
    known = [tuple(found.values()) for found in speed_page.read_history()["figures"]]
    assert len(known) == len(set(known)) > 0
    for kept in records.load():
        assert {tuple(found.values()) for found in speed_page._figures(kept)} <= set(known)


def test_rows() -> None:
    newer = result("2026-02-02", ratios={**ENTRY["ratios"], "fastforget": {"median": 0.7}})
    (row,) = speed_page._beside([result("2026-01-01"), newer])
    assert row == "| fisher vgg16-bn-cifar b32 | 1 | forward+backward | 0.70 | other 3.00 |\n"
    figures = [*speed_page._figures(result("2026-01-01T1")), *speed_page._figures(result("2026-02-02T1"))]
    rows = list(speed_page._over_time(figures))
    assert any("fastforget / forward+backward" in row and "0.8 (2026-01-01), 0.8 (2026-02-02)" in row for row in rows)
    assert list(speed_page._over_time(figures[: len(figures) // 2])) == []  # once is no history


def test_instructions_beside_those_that_were_kept_first() -> None:
    counts = {"kernels": {"select": {"work": 100, "instructions": 150}, "new": {"work": 10, "instructions": 5}}}
    rows = list(speed_page._counts({"instructions": {"select": 300}}, counts))
    assert rows == ["| select | 150 | 1.500 | 0.500 |\n", "| new | 5 | 0.500 | 1.000 |\n"]
