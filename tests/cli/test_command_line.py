"""The command line, run as a user runs it."""

import importlib
import importlib.util
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fastforget import cli


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 (our own interpreter)
        [sys.executable, "-m", "fastforget", *arguments], capture_output=True, text=True, check=False
    )


def test_version() -> None:
    result = run("--version")
    assert (result.returncode, result.stdout) == (0, f"fastforget {version('fastforget')}\n")


def test_an_expected_failure_is_one_line_and_status_1(tmp_path: Path) -> None:
    result = run("demo", "--data", "fashion-mnist", "--folder", str(tmp_path))
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.startswith(f"fastforget: no train-images-idx3-ubyte[.gz] in {tmp_path}: run `apt-get")
    assert result.stderr.count("\n") == 1


def test_a_wrong_option_is_status_2() -> None:
    result = run("demo", "--data", "mnist")
    assert result.returncode == 2
    assert "'fashion-mnist'" in result.stderr


def test_a_folder_for_the_json_that_does_not_exist_is_noticed_before_training(tmp_path: Path) -> None:
    result = run("demo", "--json", str(tmp_path / "no" / "x.json"))
    assert result.returncode == 1
    assert result.stderr == f"fastforget: `--json` must be in a folder that exists, got {tmp_path / 'no' / 'x.json'}\n"


def test_options_reach_the_demo_and_the_numbers_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    class Result:
        def as_json(self) -> dict[str, int]:
            return {"answer": 42}

    def record(*arguments: Any, **settings: Any) -> Result:
        seen.extend([arguments, settings])
        return Result()

    monkeypatch.setattr("fastforget.demo.run.run_demo", record)
    path = tmp_path / "numbers.json"
    options = ["--data", "fashion-mnist", "--folder", "idx", "--output", "p.png", "--seed", "7", "--json", str(path)]
    result = CliRunner().invoke(cli.app, ["demo", *options])
    assert result.exit_code == 0
    assert seen == [("fashion-mnist", Path("idx"), Path("p.png")), {"seed": 7}]
    assert json.loads(path.read_text()) == {"answer": 42}


def test_without_typer_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "typer", None)
    monkeypatch.delitem(sys.modules, "fastforget.cli")
    with pytest.raises(SystemExit, match=r"the command line needs typer: pip install 'fastforget\[cli\]'"):
        importlib.import_module("fastforget.cli")


def test_without_the_demos_packages_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("fastforget.demo")]:
        monkeypatch.delitem(sys.modules, name)
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in {"sklearn", "rich"} else found(name))
    with pytest.raises(
        ModuleNotFoundError, match=r"the demo needs rich, scikit-learn: pip install 'fastforget\[demo\]'"
    ):
        importlib.import_module("fastforget.demo")
