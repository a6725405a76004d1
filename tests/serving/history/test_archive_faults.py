"""A fault, a bad receipt or a changed file does not spoil an archive."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from serving import archive_workers
from serving.archive_workers import CODES, network
from serving.history.archives import live, records
from torch import nn

from fastforget import ForgettingError, Receipt, one_shot
from fastforget.serving import Archive, verify_log
from fastforget.serving.history.errors import ArchiveError
from fastforget.serving.history.verification import verify_archive


def test_an_audit_can_stop_an_edit(folder: Path) -> None:
    subject = live(folder)

    def refuse(model: nn.Module) -> dict[str, Any]:
        raise ForgettingError("too much was lost")

    def meddle(model: nn.Module) -> dict[str, Any]:
        with torch.no_grad():
            next(model.parameters()).add_(1)
        return {}

    with pytest.raises(ForgettingError, match=r"^too much was lost$"):
        live(folder, audit=refuse).forget(3)
    with pytest.raises(ForgettingError, match=r"^`audit` must leave the weights as they are"):
        live(folder, audit=meddle).forget(3)
    assert [refused["reason"][:8] for refused in records(folder, "refused")] == ["too much", "`audit` "]
    assert subject.version.number == 0
    subject.forget(3)
    assert live(folder).version.fingerprint == subject.version.fingerprint


FAULTS = [("fsync", 1), *(("fsync", n) for n in range(2, 12)), *(("rename", n) for n in range(1, 4))]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize(("what", "place"), FAULTS)
def test_a_fault_at_any_step(
    what: str, place: int, error: type[BaseException], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Either the edit is entered, and all come to it, or nothing of it is left; the next one is made."""
    subject, witness = live(folder), live(folder)
    subject.forget(1)
    calls = 0

    def failing(real: Any) -> Any:
        def call(*args: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == place and what == "fsync":
                raise error("fault")
            found = real(*args)
            if calls == place:  # just after it: what was renamed is renamed
                raise error("fault")
            return found

        return call

    with monkeypatch.context() as patched:
        if what == "fsync":
            patched.setattr(os, "fsync", failing(os.fsync))
        else:
            patched.setattr(Path, "replace", failing(Path.replace))
        try:
            subject.forget(3)
        except (OSError, KeyboardInterrupt):
            assert calls >= place
        else:
            assert calls < place or (what, calls) == ("fsync", place)
    entered = len(Archive(folder).entries())
    assert entered in (1, 2)
    for one in (subject, witness, live(folder)):
        assert one.catch_up().number == entered
        assert one.health()["intact"]
    subject.forget(4)
    assert live(folder).version.fingerprint == witness.catch_up().fingerprint == subject.version.fingerprint
    names = {path.name for path in (*(folder / "undo").iterdir(), *(folder / "edits").iterdir())}
    assert names == {f"{number:06d}.safetensors" for number in range(1, entered + 2)}
    assert verify_log(folder / "requests.jsonl") == entered + 1


def changed(receipt: Receipt, **fields: Any) -> Receipt:
    return Receipt(**{**vars(receipt), **fields})


def test_receipts_that_would_spoil_the_archive(folder: Path) -> None:
    subject = live(folder)
    receipt = one_shot(network(), CODES, 3)
    for wrong, text in (
        (changed(receipt, classes=(99,)), r"must be of classes in \[0, 6\), got \[99\]"),
        (changed(receipt, classes=(3, 3)), "must name each of its classes once"),
        (changed(receipt, after="0" * 16), "must hold the values of the model 0{16}, but they make"),
        (changed(receipt, settings={"parameters": None}), "is not a usable receipt"),
    ):
        with pytest.raises((ValueError, ForgettingError), match=text):
            subject.apply(wrong)
    edits = {name: replace(edit, old=edit.new.clone()) for name, edit in receipt.edits.items()}
    subject.apply(changed(receipt, edits=edits))
    with pytest.raises(ValueError, match="must hold the values of the model"):
        subject.revert(0)
    assert (subject.version.number, subject.health()["intact"]) == (1, True)
    subject.forget(4)
    assert live(folder).version.fingerprint == subject.version.fingerprint


def test_a_child_that_was_forked_meanwhile_does_not_keep_the_lock(folder: Path) -> None:
    children = []

    def audit(model: nn.Module) -> dict[str, Any]:
        children.append(subprocess.Popen(["sleep", "60"], close_fds=False))  # noqa: S607
        return {}

    subject = live(folder, audit=audit, patience=0.5)
    lock = os.open(folder / "editing", os.O_RDWR | os.O_CREAT, 0o600)
    os.set_inheritable(lock, True)
    try:
        subject.forget(3)
        subject.forget(4)
    finally:
        os.close(lock)
        for child in children:
            child.kill()
            child.wait()


def test_files_that_somebody_changed(folder: Path) -> None:
    subject = live(folder)
    subject.forget(3)
    subject.forget(4)
    one, other = folder / "edits" / "000001.safetensors", folder / "edits" / "000002.safetensors"
    (folder / "undo" / "000001.safetensors").unlink()
    one.write_bytes(other.read_bytes())  # a whole receipt, but another one
    with pytest.raises(ValueError, match=r"must be the receipt of edit 1: its SHA-256 is not that in the log$"):
        live(folder)
    one.unlink()
    with pytest.raises(FileNotFoundError, match="000001"):
        live(folder)
    lines = (folder / "requests.jsonl").read_text().splitlines(keepends=True)
    (folder / "requests.jsonl").write_text("".join([lines[0], lines[2]]))
    with pytest.raises(ValueError, match=r"does not follow the one before"):
        Archive(folder)


def test_what_processes_that_died_left_is_removed(folder: Path) -> None:
    subject = live(folder)
    subject.forget(3)
    for part in ("edits", "undo"):
        (folder / part / "000002.safetensors").write_text("entered nowhere")
        (folder / part / ".000001.safetensors.0123abcd").write_text("half written")
    subject.forget(4, undo="never")
    assert sorted(path.name for path in (folder / "undo").iterdir()) == ["000001.safetensors"]
    assert sorted(path.name for path in (folder / "edits").iterdir()) == ["000001.safetensors", "000002.safetensors"]
    assert live(folder).version.fingerprint == subject.version.fingerprint


def test_what_was_acknowledged_is_seen_at_once_after_power_was_lost(folder: Path) -> None:
    """Even if a file system gave the head of one record before."""
    subject = live(folder)
    subject.forget(1)
    head = (folder / "requests.jsonl.head").read_bytes()
    subject.forget(3)
    (folder / "requests.jsonl.head").write_bytes(head)
    again = live(folder)
    assert again.version.classes == (1, 3)
    assert again.version.fingerprint == subject.version.fingerprint


def test_an_older_log_is_seen_and_nothing_is_removed(folder: Path) -> None:
    subject = live(folder)
    subject.forget(1)
    old = {name: (folder / name).read_bytes() for name in ("requests.jsonl", "requests.jsonl.head")}
    subject.forget(3)
    subject.forget(5)
    for name, content in old.items():
        (folder / name).write_bytes(content)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    text = (
        r"the log must know edit 3, whose receipt is in .*, but it ends with edit 1: an older log was put in its place"
    )
    with pytest.raises(ArchiveError, match=text):
        Archive(folder)
    with pytest.raises(ArchiveError, match="dropped or changed"):  # one that runs
        subject.forget(6)
    for name in old:
        (folder / name).unlink()
    with pytest.raises(ArchiveError, match=r"must be the folder of an archive, or have nothing in `edits`"):
        Archive(folder)
    assert sorted(path for path in folder.rglob("*") if path.is_file()) == [
        path for path in files if path.name not in old
    ]


def test_a_folder_that_belongs_to_somebody_else(tmp_path: Path) -> None:
    for part in ("edits", "undo"):
        folder = tmp_path / f"a {part}"
        (folder / part).mkdir(parents=True)
        (folder / part / "000001.safetensors").write_text("mine")
        with pytest.raises(ArchiveError, match=rf"must be the folder of an archive, or have nothing in `{part}`"):
            live(folder)
        assert [path.name for path in folder.rglob("*")] == [part, "000001.safetensors"]


def test_files_of_other_names_stay(folder: Path) -> None:
    subject = live(folder)
    subject.forget(3)
    for part in ("edits", "undo"):
        for name in ("notes.txt", "000001.safetensors.bak", "1.safetensors", ".hidden"):
            (folder / part / name).write_text("mine")
    subject.forget(4)
    live(folder).forget(5)
    assert all((folder / part / "notes.txt").read_text() == "mine" for part in ("edits", "undo"))
    assert len(list((folder / "edits").iterdir())) == 3 + 4


def spoil(folder: Path, part: str, how: str) -> None:
    path = folder / part / "000002.safetensors"
    if how == "missing":
        path.unlink()
    elif how == "changed":
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    elif how == "of no edit":
        path.with_name("000009.safetensors").write_bytes(b"")
    else:  # of a way back, which has none
        (folder / part / "000003.safetensors").write_bytes(path.read_bytes())


@pytest.mark.parametrize("part", ["edits", "undo"])
@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("missing", r"must be there: it is the receipt of edit 2$"),
        ("changed", r"must be the receipt of edit 2: its SHA-256 is not that in the log$"),
        ("of no edit", r"^the log must know edit 9"),
        ("of a way back", r"must not be there: by the log, edit 3 has no such file any more$"),
    ],
)
def test_receipts_are_verified_against_the_log(part: str, how: str, text: str, folder: Path) -> None:
    subject = live(folder)
    subject.forget(1)
    subject.forget(3)
    subject.revert(1)
    assert verify_archive(folder) == (3, 3)
    spoil(folder, part, how)
    if (part, how) == ("undo", "missing"):  # anybody may remove old values
        assert verify_archive(folder) == (3, 3)
        return
    with pytest.raises(ArchiveError, match=text):
        verify_archive(folder)


def test_old_values_that_come_back_are_found(folder: Path) -> None:
    subject = live(folder, undo="expire:1s")
    subject.forget(1)
    path = folder / "undo" / "000001.safetensors"
    kept = path.read_bytes()
    time.sleep(1.1)
    subject.forget(3)
    assert not path.exists()
    path.write_bytes(kept)
    with pytest.raises(ArchiveError, match=r"must not be there: by the log, edit 1 has no such file any more$"):
        verify_archive(folder)


@pytest.mark.parametrize("what", ["together", "killed", "full", "readonly"])
def test_processes(what: str, tmp_path: Path) -> None:
    """Many that edit at once, that are killed, that cannot write; see archive_workers.py."""
    program = [sys.executable, "-W", "error", archive_workers.__file__, what]
    found = subprocess.run(  # noqa: S603
        [*program, str(tmp_path / "archive")],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert found.returncode == 0, found.stderr
