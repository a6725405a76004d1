"""Fixtures of the command line."""

import sys
from pathlib import Path

import pytest
from command_line import CommandLine, fill


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory; what is imported from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("nets", "network"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return tmp_path


@pytest.fixture
def filled(folder: Path) -> Path:
    """The same with networks and codes."""
    fill(folder)
    return folder


@pytest.fixture
def fastforget(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """Runs commands there."""
    return CommandLine(monkeypatch, capsys)
