"""The curves of cost: every one runs, slopes are those of the logarithms, and the page gets the tables."""

from pathlib import Path

import cost_curves
import pytest
from cost_curves import BEGIN, END, Curve, Point


def curve() -> Curve:
    points = [Point(10, {"plain": 1.0, "ours": 2.0}), Point(100, {"plain": 10.0, "ours": 200.0})]
    return Curve("things", "things", "plain", [*points, Point(1000, left_out="it needs 9.0 GB of memory")])


def test_slopes() -> None:
    assert curve().slope("plain") == pytest.approx(1.0)
    assert curve().slope("ours") == pytest.approx(2.0)


def test_the_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    cost_curves.write_page(cost_curves.table([curve()]), page)
    assert page.read_text() == (
        f"before\n{BEGIN}\n\n"
        "| things | plain, ms | ours, ms |\n|---|---|---|\n"
        "| 10 | 1 | 2 (2.00 x) |\n| 100 | 10 | 200 (20.00 x) |\n"
        "| 1,000 | it needs 9.0 GB of memory | not run |\n| *slope* | 1.00 | 2.00 |\n"
        f"\n{END}\nafter\n"
    )


@pytest.mark.parametrize("task", cost_curves.tasks(), ids=lambda task: task.curve.unit)
def test_every_curve_runs(task: cost_curves.Task) -> None:
    found = [*cost_curves.points(task, task.small, 1)]
    assert [point.size for point in found] == list(task.small)
    for point in found:
        assert not point.left_out
        assert task.curve.baseline in point.ms


def test_a_point_without_memory_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost_curves, "available", lambda: 0.0)
    task = cost_curves.tasks()[0]
    (found,) = cost_curves.points(task, (1000,), 1)
    assert found.left_out == "it needs 0.0 GB of memory"
