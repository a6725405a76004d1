"""One comparison that several tests look at, and a folder from which modules are imported."""

import sys
from pathlib import Path

import pytest
from comparison.small import run

from fastforget.comparison import Comparison


@pytest.fixture(scope="session")
def found(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """The usual comparison."""
    return run(tmp_path_factory.mktemp("found"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder; the module `mine` of an earlier test is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return tmp_path
