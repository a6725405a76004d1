"""The built libraries are hardened, and the check sees each protection that is missing."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from fastforget.ops import _C

if sys.platform != "linux" or shutil.which("readelf") is None or shutil.which("c++") is None:
    pytest.skip("needs Linux, readelf and a compiler", allow_module_level=True)

sys.path.insert(0, str(Path(__file__).parent))
import hardening

FLAGS = ("-shared", "-fPIC", "-fstack-protector-all", "-Wl,-z,relro,-z,now,-z,noexecstack")
SOURCE = "void take(char *); extern int number; int *where = &number; void give() { char text[64]; take(text); }"


def built(folder: Path, *more: str) -> Path:
    """A small library, with other flags after the good ones."""
    (folder / "small.cpp").write_text(SOURCE)
    library = folder / "small.so"
    command = ["c++", *FLAGS, *more, "-o", str(library), str(folder / "small.cpp")]
    subprocess.run(command, check=True)  # noqa: S603
    return library


@pytest.mark.parametrize("library", sorted(Path(_C.__file__).parent.glob("_C*.so")), ids=lambda path: path.name)
def test_the_libraries_are_hardened(library: Path) -> None:
    assert hardening.faults(library) == []


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        ((), None),
        (("-Wl,-z,lazy",), "no BIND_NOW"),
        (("-Wl,-z,norelro",), "no RELRO"),
        (("-Wl,-z,execstack",), "the stack is executable"),
        (("-fno-stack-protector",), "no __stack_chk_fail"),
    ],
)
def test_what_is_missing_is_seen(tmp_path: Path, flags: tuple[str, ...], fault: str | None) -> None:
    found = hardening.faults(built(tmp_path, *flags))
    assert [text.endswith(fault or "") for text in found] == [True] * (fault is not None)


def test_a_wheel_is_looked_into(tmp_path: Path) -> None:
    wheel = tmp_path / "small.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("small.py", "")
    assert hardening.faults_in(wheel) == ["small.whl: there is no library in it"]
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.write(built(tmp_path, "-Wl,-z,lazy"), "small/small.so")
    assert [text.rpartition(": ")[2] for text in hardening.faults_in(wheel)] == ["no BIND_NOW"]
