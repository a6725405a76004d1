"""The engine examples run as commands, one after another on the same network and archive."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fastforget.serving import Archive, verify_log

EXAMPLES = Path(__file__).parents[2] / "examples"
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "PYTHONWARNINGS": "default",
}  # warnings of other libraries are no errors


def output(folder: Path, name: str, *arguments: str) -> str:
    command = [sys.executable, str(EXAMPLES / name), "--folder", str(folder), *arguments]
    found = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False)  # noqa: S603
    assert found.returncode == 0, found.stderr
    return found.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the network and the archive that the examples share."""
    made = tmp_path_factory.mktemp("service")
    command = [sys.executable, str(EXAMPLES / "digits_service.py"), str(made)]
    subprocess.run(command, check=True, env=ENVIRONMENT, timeout=300)  # noqa: S603
    return made


def assert_forgets(folder: Path, name: str, export: str, cls: int) -> None:
    """Check what an example prints, also when it starts again from its own export and archive."""
    exported = None
    for _ in range(2):
        first = len(Archive(folder / "archive").entries())
        printed = output(folder, name, "--forget", str(cls))
        kept, exported = exported, (folder / export).stat().st_mtime_ns
        assert kept in {None, exported}

        rows = re.findall(r"^ +(\d+) +(\d+) +([\d.]+)% +([\d.]+)%(?:  [\d.]+ ms)?", printed, re.MULTILINE)
        versions, predictions, asked, rest = zip(*(map(float, row) for row in rows), strict=True)
        assert versions == (first, first + 1, first + 2)
        assert min(predictions) >= 90  # it waits for a hundred; other threads may predict in between
        assert asked[0] == asked[2] >= 90
        assert asked[1] == 0
        assert rest[0] == rest[2] >= 95
        assert rest[1] >= rest[0] - 2

        matching = re.search(r"in the version that they name: (\d+) of (\d+) predictions", printed)
        assert matching is not None
        assert int(matching[1]) == int(matching[2]) == sum(predictions)
        difference = re.search(r"largest difference from what the eager model says in that version: (.+)", printed)
        assert difference is not None
        assert float(difference[1]) < 1e-4
        assert f"started anew before going back: version {first + 1}, the same answers" in printed
        actions = [entry.action for entry in Archive(folder / "archive").entries()[first:]]
        assert actions == ["forget", "revert"]
    verify_log(Archive(folder / "archive").log)


@pytest.mark.slow
def test_onnx_runtime(folder: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    assert_forgets(folder, "onnx_runtime.py", "model.onnx", 3)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="AOTInductor compiles with g++")
def test_aot_inductor(folder: Path) -> None:
    assert_forgets(folder, "aot_inductor.py", "model.pt2", 5)
