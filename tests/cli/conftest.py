"""A working folder, and the command line in it."""

import sys
from pathlib import Path

import pytest
from cli.command_line import CommandLine, write_models


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder; modules that are imported from it are unloaded afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("nets", "network"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return tmp_path


@pytest.fixture
def model_folder(folder: Path) -> Path:
    """The working folder with models and codes."""
    write_models(folder)
    return folder


@pytest.fixture
def fastforget(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """The command line in the working folder."""
    return CommandLine(monkeypatch, capsys)
