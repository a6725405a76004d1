"""`make gpu-check` stops at once without a GPU, and reports failed rows and wrong results."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import gpu_values
import pytest
import torch
from gpu.forgetting import forgetting, thousand_classes
from gpu.lists import select_and_perturb
from gpu.measuring import PRECISIONS, TOLERANCE, Bench, Row, WrongError, check
from gpu.report import table
from gpu.weight_kernels import CONVOLUTION, LINEAR, convolution, kernels, linear, vit_in_all

ROOT = Path(__file__).parents[2]


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 (our own scripts)
        command, check=False, capture_output=True, text=True, env={**os.environ, **environment}, cwd=ROOT
    )


def test_stops_without_a_device(tmp_path: Path) -> None:
    done = run("bash", "benchmarks/gpu_check.sh", PYTHON=sys.executable, CUDA_VISIBLE_DEVICES="", OUT=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr == (
        f"gpu-check: there must be a CUDA device that PyTorch sees, got none with PyTorch {torch.__version__}\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_stops_without_a_python() -> None:
    done = run("bash", "benchmarks/gpu_check.sh", PYTHON="/bin/false")
    assert (done.returncode, done.stderr) == (
        1,
        "gpu-check: PYTHON must name a Python with PyTorch, got /bin/false\n",
    )


@pytest.mark.parametrize(("version", "named"), [("70.1.0", "70.1.0"), ("0", "none")])
def test_stops_without_what_builds(version: str, named: str, tmp_path: Path) -> None:
    (tmp_path / "setuptools.py").write_text(f"__version__ = {version!r}\n")
    done = run("bash", "benchmarks/gpu_check.sh", PYTHON=sys.executable, PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stderr) == (
        1,
        f"gpu-check: PYTHON must have setuptools 77 or newer to build, got {named}\n",
    )


def test_stops_at_another_argument() -> None:
    done = run("bash", "benchmarks/gpu_check.sh", "--tests")
    assert (done.returncode, done.stderr) == (1, "gpu-check: the only argument is --no-build, got --tests\n")


def test_every_file_that_it_runs_is_there() -> None:
    """The second call names tests by brace expansion: a name that is not there would cost its whole step."""
    script = (ROOT / "benchmarks" / "gpu_check.sh").read_text()
    named = " ".join(re.findall(r"tests/[\w/{},.]+", script))
    done = run("bash", "-c", f"ls -d {named}")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) > 15


def test_every_bar_has_its_row() -> None:
    """A row of each bar runs, the right result first, also in the small sizes here."""
    bench = Bench(torch.device("cpu"), small=True, seconds=60)
    bench.row("select and perturb", lambda: select_and_perturb(bench, 0.03))
    bench.row("one_shot", lambda: forgetting(bench, thousand_classes))
    kernels(bench, "bf16")
    bench.row("in all", lambda: vit_in_all(bench))
    assert [row["name"] for row in bench.rows if row.get("error")] == []
    block = sum(row["ms"] for row in bench.rows if "ViT-B/16" in row["name"])
    assert block < bench.rows[-1]["ms"] < 12 * block
    assert bench.rows[1]["of forward+backward"] > 0


def test_the_benchmark_stops_without_a_device() -> None:
    done = run(sys.executable, "benchmarks/gpu_bench.py", CUDA_VISIBLE_DEVICES="", PYTHONPATH=str(ROOT))
    assert done.returncode == 1
    assert done.stderr.endswith(
        "gpu_bench: there must be a CUDA device and kernels for it (FASTFORGET_CUDA=1), got none\n"
    )


@pytest.mark.parametrize("name", [*gpu_values.OPERATORS, *gpu_values.WHOLE])
def test_values_are_told_from_wrong_ones(name: str) -> None:
    case = {**gpu_values.OPERATORS, **gpu_values.WHOLE}[name]
    found = case(torch.device("cpu"))
    assert gpu_values.difference(found, case(torch.device("cpu"))) == 0
    off = torch.utils._pytree.tree_map(lambda t: t + 1, found)
    assert gpu_values.difference(off, found) > gpu_values.TOLERANCE_WHOLE


def test_a_failed_row_is_recorded_and_the_rest_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    bench = Bench(torch.device("cpu"), small=True, seconds=60)

    def fails() -> Row:
        raise RuntimeError("out of | memory\nand more")

    bench.row("first", fails)
    bench.row("second", lambda: {"ms": bench.milliseconds(lambda _: time.sleep(0.002)), "share": 0.5})
    bench.ends = 0
    bench.row("third", fails)
    errors = [row.get("error") for row in bench.rows]
    assert errors == ["RuntimeError: out of | memory", None, "not run: out of time"]
    assert bench.rows[1]["ms"] > 1.9
    text = table({"device": "a GPU", "torch": "2.13"}, bench.rows)
    assert "| first |  |  |  |  |  |  |  | **RuntimeError: out of / memory** |" in text
    assert {line.count("|") for line in text.splitlines() if line.startswith("|")} == {10}


def test_a_wrong_result_is_an_error() -> None:
    with pytest.raises(WrongError, match=r"relative error 1\.00e\+00, at most 1e-05 allowed"):
        check(torch.zeros(3), torch.ones(3), 1e-5)
    with pytest.raises(WrongError, match="relative error nan"):
        check(torch.full((3,), torch.nan), torch.ones(3), 1e-5)


@pytest.mark.parametrize("name", PRECISIONS)
def test_weight_kernels_run_on_small_shapes(name: str) -> None:
    bench = Bench(torch.device("cpu"), small=True, seconds=60)
    for sizes in LINEAR.values():
        assert linear(bench, name, sizes)["relative error"] < TOLERANCE[name]
    for shape in CONVOLUTION.values():
        assert convolution(bench, name, shape)["relative error"] < TOLERANCE[name]
