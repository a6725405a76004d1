"""What is read of callgrind's dumps, and when a kernel takes too much. valgrind is not needed."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "instructions" / "count.py"
DUMP = """# callgrind format
part: 3
desc: Timerange: Basic block 7 - 9
desc: Trigger: Client Request: linear 2 x 3 | 600
events: Ir
summary: 1000

fn=(1) f
1 990
totals: 1010
"""


@pytest.fixture
def count() -> ModuleType:
    spec = importlib.util.spec_from_file_location("instructions_count", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(__import__("sys").modules, spec.name, module)  # where dataclasses look for annotations
        spec.loader.exec_module(module)
    return module


def test_a_dump_is_a_case(count: ModuleType) -> None:
    assert count.read(DUMP) == count.Case("linear 2 x 3", 600, 1010)
    assert count.read(DUMP.replace("Client Request: linear 2 x 3 | 600", "Program termination")) is None


def test_a_kernel_that_takes_more_is_named(count: ModuleType) -> None:
    def kept(**instructions: int) -> dict[str, Any]:
        return {name: {"work": 1, "instructions": value} for name, value in instructions.items()}

    cases = [count.Case("one", 1, 1020), count.Case("other", 1, 1021)]
    assert count.faults(cases, kept(one=1000, other=1001)) == []
    assert count.faults(cases, kept(one=1000, other=1000)) == ["other takes over 1.02 times what was kept"]
    assert count.faults(cases, kept(one=1000)) == ["other was not kept"]
    assert count.faults(cases[:1], kept(one=1000, other=1000)) == ["other was not counted"]
    assert "| one | 1,020 | 1020.000 | 1.020 |" in count.table(cases, kept(one=1000))


def test_what_is_kept_has_every_kernel(count: ModuleType) -> None:
    kept = count.json.loads(count.KEPT.read_text())
    source = SCRIPT.with_name("kernels.cpp").read_text()
    calls = ("fisher_linear", "fisher_convolution", "fisher_affine", "fisher_embedding", "select", "perturb")
    assert all(f"cpu::{call}(" in source for call in (*calls, "project_gram", "project_combine", "fingerprint"))
    assert len(kept["kernels"]) == 15
    assert all(each["instructions"] > 0 and each["work"] > 0 for each in kept["kernels"].values())


def test_only_a_commit_that_kept_counts_can_be_compared_with(count: ModuleType) -> None:
    with pytest.raises(SystemExit, match=r"^`--against` must be a commit that kept instruction counts: "):
        count.kept_at("no-such-commit")
