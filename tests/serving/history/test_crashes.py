"""Nothing that was acknowledged is lost by kills at any call and by losses of power, and nothing is half accepted.

`make crashes` runs all of it; here are samples, and faults that must be found.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from serving.history import crashes

from fastforget.files import durable
from fastforget.serving.history import head, log, receipt_files, seal

pytestmark = [
    pytest.mark.skipif(sys.version_info < (3, 11), reason="pathlib of Python 3.10 keeps functions of its own"),
    pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("what", "number"), [("kills", "13"), ("power", "60")])
def test_crashes(what: str, number: str, tmp_path: Path) -> None:
    done = subprocess.run(  # noqa: S603 (our own program)
        [sys.executable, "-W", "error", crashes.__file__, what, str(tmp_path / "crashes"), number],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) >= 15
    assert done.stdout.endswith(f"{what}: nothing lost, nothing half accepted\n")


def not_synced(file: int, content: bytes) -> None:
    while content:
        content = content[os.write(file, content) :]


FAULTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "the name of the head": lambda patch: patch.setattr(head, "sync", lambda _: None),
    "a record": lambda patch: patch.setattr(log, "_append", not_synced),
    "the signed head": lambda patch: patch.setattr(
        seal, "replace_durably", lambda path, text: path.write_text(text, encoding="utf-8")
    ),
    "receipts": lambda patch: (
        patch.setattr(durable, "sync", lambda _: None),
        patch.setattr(receipt_files, "sync", lambda _: None),
    )[0],
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_not_synced_is_found(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one of the calls that bring an edit to the disk, a loss of power loses something."""
    FAULTS[fault](monkeypatch)
    with pytest.raises((AssertionError, OSError, ValueError)):
        crashes.power(tmp_path / "crashes", 120)
