"""The examples of transformers, timm, Lightning and MLflow run as commands."""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "PYTHONWARNINGS": "default",  # warnings of other libraries are no errors
    "PYTHONPATH": str(ROOT / "benchmarks"),
    "HF_HUB_OFFLINE": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


def output(name: str, *arguments: str, command: Sequence[str] = (sys.executable,)) -> str:
    whole = [*command, str(EXAMPLES / name), *arguments]
    found = subprocess.run(whole, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False)  # noqa: S603
    assert found.returncode == 0, found.stderr
    return found.stdout


def assert_forgets(printed: str) -> None:
    """Check the accuracies before and after."""
    rows = re.findall(r"^recognised [^:]*: +([\d.]+)% of the class, ([\d.]+)% of the rest$", printed, re.MULTILINE)
    assert len(rows) >= 2
    (asked, rest), (asked_after, rest_after) = (tuple(map(float, row)) for row in rows[:2])
    assert asked >= 90
    assert rest >= 90
    assert asked_after <= 2
    assert rest_after >= rest - 3


def test_transformers(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    printed = output("transformers_trainer.py", "--folder", str(tmp_path), "--forget", "3")
    assert_forgets(printed)
    assert "forgotten, says the folder: ['three']\n" in printed
    assert printed.endswith("the weights are those it speaks of: True\n")
    assert "| 3 | three | disconnected" in (tmp_path / "model" / "README.md").read_text()


def test_timm(tmp_path: Path) -> None:
    if find_spec("timm") is None or not (ROOT / "benchmarks").is_dir():
        pytest.skip("timm, or what imports it without torchvision, is not there")
    start = "import runpy, sys; from sweep.libraries import import_timm; import_timm(); del sys.argv[0]"
    command = [sys.executable, "-c", f"{start}; runpy.run_path(sys.argv[0], run_name='__main__')"]
    printed = output("timm_model.py", "--folder", str(tmp_path), "--forget", "3", command=command)
    assert_forgets(printed)
    assert "forgotten, says the folder: [3]\n" in printed
    assert printed.endswith("the weights are those it speaks of: True\n")


def test_lightning() -> None:
    pytest.importorskip("lightning")
    printed = output("lightning_digits.py", "--forget", "3")
    assert_forgets(printed)
    rows = re.findall(r": +([\d.]+% of the class, [\d.]+% of the rest)", printed)
    assert rows[0] == rows[2]


def test_mlflow(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    pytest.importorskip("alembic")
    printed = output("mlflow_registry.py", "--folder", str(tmp_path / "my service"), "--forget", "3")
    assert "version 1 serves; its weights are those that its tags name: True\n" in printed
    assert "  fastforget.classes: 3\n" in printed
    assert "  fastforget.reversible: false\n" in printed
