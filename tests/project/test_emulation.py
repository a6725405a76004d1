"""The emulation of CUDA kernels is as strict as a device: it must notice what a device would not forgive."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no compiler")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("emulation") / "cases"
    source = ROOT / "tests" / "project" / "emulation.cpp"
    command = ["g++", "-std=c++20", "-O1", f"-I{ROOT / 'tests' / 'emulation'}", "-o", made, source]
    subprocess.run(command, check=True)  # noqa: S603
    return made


def said(program: Path, *arguments: str, **settings: str) -> tuple[int, list[str], str]:
    done = subprocess.run([program, *arguments], capture_output=True, text=True, env={**os.environ, **settings})  # noqa: S603, PLW1510
    return done.returncode, done.stdout.split(), done.stderr


@pytest.mark.parametrize("order", ["forward", "backward", "3"])
def test_a_shuffle_needs_all_threads_of_its_warp(program: Path, order: str) -> None:
    assert said(program, "shuffle", "0", FASTFORGET_EMULATION_ORDER=order)[0] == 0
    status, _, text = said(program, "shuffle", "1", FASTFORGET_EMULATION_ORDER=order)
    assert status != 0
    assert "emulation: a shuffle, vote or matrix product of a warp some of whose threads have ended" in text


def test_static_shared_memory_begins_every_block_anew(program: Path) -> None:
    assert said(program, "static")[1] == ["ffffffff"] * 4


def test_much_shared_memory_must_be_asked_for(program: Path) -> None:
    assert said(program, "dynamic")[1] == ["0", "1", "0", "1", "0"]


def test_products_are_cut_off(program: Path) -> None:
    """Of 1.75 units in the last place one remains, above and below zero; to nearest it would be two."""
    assert said(program, "product")[1] == ["3f800001", "bf800001"]


def test_as_many_multiprocessors_as_asked(program: Path) -> None:
    name = "FASTFORGET_EMULATION_MULTIPROCESSORS"
    assert said(program, "multiprocessors", **{name: "132"})[1] == ["132"]
    status, _, text = said(program, "multiprocessors", **{name: "none"})
    assert status != 0
    assert f"emulation: {name} must be a number above 0" in text
