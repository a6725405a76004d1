"""A damaged or forged file is read, or refused by a documented error: soon, in little memory, without a trace."""

import os
import resource
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("cryptography")
pytest.importorskip("typer")
from fuzz.damage import Folder, damaged, forged
from fuzz.draws import CASES, SETTINGS, Draw
from fuzz.readers import READERS, SERVED, Reader, contents, good_files
from hypothesis import given, settings
from hypothesis import strategies as st

# Of each reader; `make fuzz` gives CASES, so that all readers together see over a hundred thousand cases.
EACH = CASES // (2 if "FASTFORGET_FUZZ_CASES" in os.environ else 80)
MEMORY, SECONDS = 2**29, 10.0  # more than the process has, and of a processor


@contextmanager
def bounded() -> Iterator[None]:
    """Fail whatever takes much more memory than there is now, or long."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, before[1]))
    start = time.process_time()
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert time.process_time() - start < SECONDS


def written(folder: Path, files: Folder) -> None:
    """Make the folder hold these files alone."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


@dataclass(frozen=True)
class Harmed:
    """Files of which one is bad. It is printed short; hypothesis says how to draw it again."""

    files: Folder
    bad: str

    def __repr__(self) -> str:
        content = self.files[self.bad]
        return f"{self.bad} of {len(content)} bytes: {content[:1000]!r}"


@st.composite
def harmed(draw: Draw, reader: Reader) -> Harmed:
    """Draw the reader's files, one of them damaged; those of safetensors are also forged."""
    good = good_files(reader)
    bad = draw(st.sampled_from(sorted(good)))
    safetensors = good[bad][8:9] == b"{"
    changed = draw(forged(good[bad]) if safetensors and draw(st.booleans()) else damaged(good[bad]))
    return Harmed({**good, bad: changed}, bad)


@pytest.mark.parametrize("reader", [*READERS, SERVED], ids=str)
def test_good_files_are_read(reader: Reader, tmp_path: Path) -> None:
    written(tmp_path / "files", good_files(reader))
    reader.read(tmp_path / "files")


@pytest.mark.parametrize("reader", [*READERS, SERVED], ids=str)
def test_bad_files_are_refused(reader: Reader, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("fuzz") / "files"

    @settings(SETTINGS, max_examples=EACH)
    @given(case=harmed(reader))
    def refused(case: Harmed) -> None:
        written(folder, case.files)
        with bounded(), suppress(*reader.errors):
            reader.read(folder)
        if reader is not SERVED:  # which begins by removing what a killed process left
            assert contents(folder) == case.files

    refused()
