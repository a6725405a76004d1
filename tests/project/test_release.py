"""What a release says of itself agrees, and its workflow calls what there is."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / ".ci"

if not TOOLS.is_dir():
    pytest.skip("the tools of a release are not part of this distribution", allow_module_level=True)


def found(file: str, pattern: str) -> list[str]:
    return re.findall(pattern, (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)


def test_the_version_is_the_same_everywhere() -> None:
    (version,) = found("pyproject.toml", r'^version = "(.*)"$')
    assert found("CITATION.cff", r"^version: (.*)$") == [version]
    assert f"git tag v{version}" in (ROOT / "RELEASING.md").read_text(encoding="utf-8")


def test_the_workflow_calls_targets_of_the_makefile() -> None:
    called = found(".github/workflows/release.yml", r"\bmake ([\w-]+)")
    assert set(called) == {"wheels"}
    assert found("Makefile", r"^wheels: wheel$")
    assert found("Makefile", r"^\t\.ci/release \$\(BIN\)/python")
    assert os.access(TOOLS / "release", os.X_OK)


@pytest.mark.parametrize("block", ["import fastforget", "raise ValueError('here')"])
def test_a_page_must_run_from_the_installed_package(tmp_path: Path, block: str) -> None:
    """This environment has the package from a source tree, so even a page that runs is refused."""
    page = tmp_path / "page.md"
    page.write_text(f"```python\n{block}\n```\n")
    command = [sys.executable, str(TOOLS / "run_page.py"), str(page)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 (our own interpreter)
    assert done.returncode != 0
    assert ("that is not the installed package" in done.stderr) == (block == "import fastforget")
