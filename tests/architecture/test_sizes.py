"""Files stay short enough to be read in one go."""

from statistics import median

import pytest
from architecture.sizes import PACKAGE, lengths, report


def test_half_of_the_files_are_read_in_a_minute() -> None:
    assert median(lengths().values()) <= 120


@pytest.mark.parametrize("folder", ["benchmarks", "examples", "fastforget", "tests"])
def test_no_file_is_long(folder: str) -> None:
    assert {name: lines for name, lines in lengths(PACKAGE.parent / folder).items() if lines > 350} == {}


def test_the_report_counts_by_room() -> None:
    rows = [line.split() for line in report({"ops/a.py": 10, "ops/b.py": 30, "errors.py": 5}).splitlines()]
    assert rows[1:] == [["errors", "1", "5", "5", "5"], ["ops", "2", "40", "20", "30"], ["all", "3", "45", "10", "30"]]
