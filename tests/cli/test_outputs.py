"""Results are printed as text or as JSON."""

import json

import pytest
import typer

from fastforget.classifier.text_table import format_table
from fastforget.cli.outputs import print_result


def test_json_knows_no_infinity(capsys: pytest.CaptureFixture[str]) -> None:
    infinity = float("inf")
    print_result({"a": [infinity, 1.5], "b": {"c": -infinity, "d": float("nan")}, "e": (2,)}, "text", as_json=True)
    assert json.loads(capsys.readouterr().out) == {"a": [None, 1.5], "b": {"c": None, "d": None}, "e": [2]}


def test_a_check_that_failed_is_shown_before_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended:
        print_result({}, "text", as_json=False, failed=True)
    assert ended.value.exit_code == 1
    assert capsys.readouterr().out == "text\n"


def test_a_table() -> None:
    assert format_table([["a", "bb"], ["ccc", "1"]]) == "a    bb\n---  --\nccc   1"
