"""Files that appear whole or not at all, and results as JSON."""

import json
from pathlib import Path

import pytest
import typer

from fastforget.cli.outputs import show, table, written_whole


def test_files_appear_when_all_are_written(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    with written_whole(first, second) as drafts:
        for draft in drafts:
            draft.write_text("new")
        assert not first.exists()
        assert not second.exists()
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"first": "new", "second": "new"}


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, SystemExit])
def test_none_appears_after_an_error(tmp_path: Path, error: type[BaseException]) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    second.write_text("old")

    def write() -> None:
        with written_whole(first, second) as drafts:
            for draft in drafts:
                draft.write_text("new")
            raise error

    with pytest.raises(error):
        write()
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"second": "old"}


def test_none_appears_if_one_was_not_written(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), written_whole(tmp_path / "first", tmp_path / "second") as (draft, _):
        draft.write_text("new")
    assert list(tmp_path.iterdir()) == []


def test_json_knows_no_infinity(capsys: pytest.CaptureFixture[str]) -> None:
    infinity = float("inf")
    show({"a": [infinity, 1.5], "b": {"c": -infinity, "d": float("nan")}, "e": (2,)}, "text", as_json=True)
    assert json.loads(capsys.readouterr().out) == {"a": [None, 1.5], "b": {"c": None, "d": None}, "e": [2]}


def test_a_check_that_failed_is_shown_before_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended:
        show({}, "text", as_json=False, failed=True)
    assert ended.value.exit_code == 1
    assert capsys.readouterr().out == "text\n"


def test_a_table() -> None:
    assert table([["a", "bb"], ["ccc", "1"]]) == "a    bb\n---  --\nccc   1"
