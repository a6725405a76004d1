"""Where the compiled operators are missing, the error says why."""

import os
import shutil
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

import fastforget

PACKAGE = Path(fastforget.__file__).parent
# An editable install lends its library to a tree that has none: it is left out.
IMPORT = """
import sys
sys.meta_path = [finder for finder in sys.meta_path if getattr(finder, "__name__", "") != "_EditableFinder"]
import fastforget
"""
MISSING = (
    "ImportError: fastforget's compiled operators are missing; build them with "
    "`pip install --no-build-isolation -e .` in the source tree, or install a wheel"
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A source tree that was never built."""
    shutil.copytree(PACKAGE, tmp_path / "fastforget", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    (tmp_path / "csrc").mkdir()
    (tmp_path / "setup.py").touch()
    return tmp_path


def error_of_import(tree: Path) -> str:
    """Import it as somebody does who stands there, also where PYTHONSAFEPATH is set."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", IMPORT]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, cwd=tree)  # noqa: S603
    assert done.returncode == 1
    return done.stderr.splitlines()[-1]


def test_a_source_tree_that_was_not_built(tree: Path) -> None:
    assert error_of_import(tree) == (
        f"ImportError: `fastforget` was imported from the source tree at {tree}, which has no compiled operators and "
        "hides the installed package: run Python from another folder (or set PYTHONSAFEPATH=1), or build the tree with "
        "`pip install --no-build-isolation -e .`"
    )


def test_a_package_without_its_library(tree: Path) -> None:
    (tree / "setup.py").unlink()
    assert error_of_import(tree) == MISSING


def test_a_source_tree_whose_library_does_not_load(tree: Path) -> None:
    (tree / "fastforget" / "ops" / f"_C{EXTENSION_SUFFIXES[0]}").write_text("no library")
    assert error_of_import(tree) == MISSING
