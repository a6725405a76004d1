"""The examples under torchrun, as their first lines say."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "examples"


def torchrun(name: str, *arguments: str) -> str:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    run = subprocess.run(  # noqa: S603
        [*command, str(EXAMPLES / name), *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_fisher() -> None:
    said = torchrun("distributed_fisher.py")
    assert "one process marks the same on 11018 of 11018 elements" in said
    assert said.count("every value back: True") == 2


def test_forgetting(tmp_path: Path) -> None:
    said = torchrun("distributed_forgetting.py", "--folder", str(tmp_path))
    known = re.findall(r"(\w+): accuracy .*codes known of class 3: (\d) of 4, of the others: (\d+) of 36", said)
    assert known == [("before", "4", "36"), ("after", "0", "36"), ("reverted", "4", "36")]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "forgot-3-0-of-2.safetensors",
        "forgot-3-1-of-2.safetensors",
    ]
