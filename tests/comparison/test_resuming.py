"""A comparison continues that was interrupted: between two rows, or within a line."""

import csv
import io
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from comparison.small import run

from fastforget.comparison import Comparison
from fastforget.comparison.store import RowStore

SCRIPT = """
import os, signal, sys
from comparison import small

def killed(model, forget, remain, *, seed):
    if seed == 1:
        os.kill(os.getpid(), signal.SIGKILL)

killed.__module__, killed.__qualname__ = small.nothing.__module__, small.nothing.__qualname__
methods = [{"method": killed, "name": "nothing"}, {"method": "fine_tune", "epochs": 2}]
small.run(sys.argv[1], methods=methods)
"""


def without_times(text: str) -> list[list[str]]:
    """Return the cells of the columns that do not differ from call to call."""
    lines = list(csv.reader(io.StringIO(text)))
    kept = [n for n, title in enumerate(lines[0]) if not title.startswith(("time", "CPU time", "peak memory"))]
    return [[line[n] for n in kept] for line in lines]


def test_after_a_kill_the_csv_is_that_of_an_uninterrupted_call(
    tmp_path: Path, found: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    tests = Path(__file__).parents[1]
    monkeypatch.setenv("PYTHONPATH", ":".join([str(tests), *sys.path]))
    done = subprocess.run([sys.executable, "-c", SCRIPT, tmp_path], check=False, cwd=tests)  # noqa: S603
    assert done.returncode == -signal.SIGKILL
    assert not list(tmp_path.glob("comparison.*"))
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 6

    resumed = run(tmp_path)
    assert resumed.measured == 2
    assert without_times(resumed.to_csv()) == without_times(found.to_csv())
    assert len(without_times(found.to_csv())[0]) > 20


def test_a_line_that_was_not_finished_is_done_again(tmp_path: Path) -> None:
    first = run(tmp_path, seeds=[0])
    file = tmp_path / "rows.jsonl"
    whole = file.read_bytes()
    start = whole.rstrip(b"\n").rfind(b"\n") + 1
    for length in (start + 1, (start + len(whole)) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        again = run(tmp_path, seeds=[0])
        assert again.measured == 1
        assert without_times(again.to_csv()) == without_times(first.to_csv())
        lines = file.read_bytes().splitlines()
        assert lines[:-1] == whole.splitlines()[:-1]
        assert len(lines) == 4


def test_lines_that_are_no_rows_are_refused(tmp_path: Path) -> None:
    run(tmp_path, seeds=[0])
    file = tmp_path / "rows.jsonl"
    whole = file.read_text()
    for wrong, text in (
        ("{]", "line 1: Expecting"),
        ("[" * 99_000, "line 1: maximum recursion depth"),
        ("{}", "line 1: a row must have the fields key, seed, method"),
        (whole.splitlines()[0].replace('"seed": 0', '"seed": "0"'), "line 1: the field `seed` of a row holds '0'"),
    ):
        file.write_text(f"{wrong}\n{whole}")
        with pytest.raises(ValueError, match="must have a row in each line, but " + text.replace("{", r"\{")):
            RowStore(file)
        with pytest.raises(ValueError, match="must have a row in each line"):
            run(tmp_path, seeds=[0])
        assert file.read_text() == f"{wrong}\n{whole}"


def test_a_network_that_is_not_whole_is_refused_by_name(tmp_path: Path) -> None:
    run(tmp_path, seeds=[0])
    network = next((tmp_path / "networks").iterdir())
    network.write_bytes(network.read_bytes()[:-7])
    with pytest.raises(ValueError, match=rf"^`output` must be a checkpoint .* got {network}"):
        run(tmp_path, seeds=[0])
