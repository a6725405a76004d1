"""What is handed out: the package is whole in a wheel, the sources in an sdist. Nothing is compiled for that."""

import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("benchmarks", "csrc", "docs", "examples", "fastforget", "tests")
BESIDE = (
    *("CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "README.md", "RELEASING.md"),
    *("Makefile", "constraints.txt", "mkdocs.yml", "pyproject.toml", "setup.py", ".clang-format"),
)
MADE = {".o", ".pyc", ".so"}


def files(folder: Path) -> set[str]:
    """What somebody wrote: neither what was built nor what tools keep beside it."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path.as_posix() for path in found if path.suffix not in MADE and not path.as_posix().startswith(".")}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `package`, as in a wheel, and the sdist."""
    folder = tmp_path_factory.mktemp("made")
    arguments = [
        *("egg_info", "--egg-base", folder),
        *("build_py", "--build-lib", folder / "package"),
        *("sdist", "--dist-dir", folder),
    ]
    command = [sys.executable, "setup.py", "--quiet", *map(str, arguments)]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)  # noqa: S603 (our own interpreter)
    return folder


def test_the_wheel_has_every_file_of_the_package(made: Path) -> None:
    assert files(made / "package" / "fastforget") == files(ROOT / "fastforget")


def test_the_sdist_has_every_source(made: Path) -> None:
    (archive,) = made.glob("*.tar.gz")
    with tarfile.open(archive) as sdist:
        found = {name.partition("/")[2] for name in sdist.getnames()}
    sources = {f"{folder}/{name}" for folder in FOLDERS for name in files(ROOT / folder)}
    assert sources - found == set()
    assert {*BESIDE} - found == set()
