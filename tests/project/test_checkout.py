"""The checkout as git, pytest and ruff see it: nothing that somebody wrote is passed over."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OUTPUTS = {"build", "dist", "node_modules", "site-packages", "venv"}  # pytest and ruff enter no folder of these names


def test_no_folder_is_taken_for_outputs() -> None:
    folders = [path for top in ("benchmarks", "examples", "fastforget", "tests") for path in (ROOT / top).rglob("*")]
    assert len(folders) > 100
    assert [path for path in folders if path.name in OUTPUTS] == []


def test_git_ignores_no_file_that_it_tracks() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout")
    command = ["git", "ls-files", "--cached", "--ignored", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603 (git)
    if done.returncode:
        pytest.skip(f"git does not read this checkout: {done.stderr.strip()}")
    assert done.stdout == ""
