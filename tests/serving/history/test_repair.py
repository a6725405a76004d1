"""A damaged archive is repaired where nothing is lost by it, and only said where something would be."""

import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from serving.history.archives import live
from serving.history.test_log import CHANGES, lines, written

from fastforget.serving import read_log, verify_log
from fastforget.serving.history.repair import Step, repair, repair_steps
from fastforget.serving.history.verification import verify_archive


@pytest.fixture
def archive(folder: Path) -> Path:
    """Two edits and a way back."""
    subject = live(folder)
    subject.forget(1)
    subject.forget(3)
    subject.revert(1)
    return folder


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def repaired(folder: Path) -> list[Step]:
    """What is done is what was said, saying changes nothing, and afterwards nothing is left to do."""
    before = snapshot(folder)
    said = repair_steps(folder)
    assert snapshot(folder) == before
    done = repair(folder)
    assert [bool(step.do) for step in done] == [bool(step.do) for step in said]
    assert not [step for step in repair_steps(folder) if step.do]
    return done


def head(folder: Path) -> Path:
    return folder / "requests.jsonl.head"


def write(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def test_there_is_nothing_to_repair(archive: Path) -> None:
    assert repaired(archive) == []


@pytest.mark.parametrize("content", [None, b"", b"nonsense", b"[]", b"[" * 10_000, b"\xff", "older"])
def test_a_head_that_is_lost(content: Any, archive: Path) -> None:
    """Opening refuses it; the repair says that records dropped from the end would not show."""
    if content == "older":
        record = read_log(archive / "requests.jsonl")[1]
        content = json.dumps({"number": 1, "hash": record.hash}).encode()
    head(archive).unlink()
    if content is not None:
        head(archive).write_bytes(content)
    with pytest.raises(ValueError, match="requests"):
        verify_archive(archive)
    (step,) = repaired(archive)
    assert step.text.startswith("write the head anew, of record 3: it is ")
    assert verify_archive(archive) == (3, 3)
    assert live(archive).version.number == 3


@pytest.mark.parametrize("tail", [b"\0" * 512, b'{"half', b"nonsense\nmore\n"])
def test_what_follows_the_last_record_that_was_acknowledged(tail: bytes, archive: Path) -> None:
    write(archive / "requests.jsonl", lambda data: data + tail)
    (step,) = repaired(archive)
    assert step.text.startswith(f"move {len(tail)} bytes after record 3, which nobody was told of, to ")
    (aside,) = archive.glob("requests.jsonl.damaged-*")
    assert aside.read_bytes() == tail
    assert verify_archive(archive) == (3, 3)
    assert live(archive).version.number == 3


LOST: dict[str, tuple[Callable[[Path], None], str]] = {
    "a record": (lambda f: write(f / "requests.jsonl", lambda data: data.replace(b'"edit"', b'"edIt"', 1)),
                 r"records 1 to 3 of .* were acknowledged and cannot be read: use a backup"),
    "the last one": (lambda f: write(f / "requests.jsonl", lambda data: data[:-9]),
                     r"records 3 to 3 of .* were acknowledged and cannot be read"),
    "all": (lambda f: write(f / "requests.jsonl", lambda data: data[:0]), r"no record of .* can be read"),
    "another head": (lambda f: head(f).write_text('{"number": 2, "hash": "0"}'), r"is that of another log"),
    "a negative head": (lambda f: head(f).write_text('{"number": -1, "hash": "0"}'), r"is that of another log"),
    "head and end": (lambda f: (head(f).unlink(), write(f / "requests.jsonl", lambda data: data + b"x\n"))[1],
                     r"what follows record 3 .* no head says whether it was acknowledged"),
    "a signed head": (lambda f: (f / "requests.jsonl.signed").write_text("x"), r"is not usable: .* from a backup"),
}  # fmt: skip


@pytest.mark.parametrize("what", LOST)
def test_what_was_acknowledged_and_is_lost_is_not_hidden(what: str, archive: Path) -> None:
    spoil, text = LOST[what]
    spoil(archive)
    before = snapshot(archive)
    (step,) = repair(archive)
    assert step.do is None
    assert re.search(text, step.text), step.text
    assert {name: content for name, content in snapshot(archive).items() if name != "editing"} == {
        name: content for name, content in before.items() if name != "editing"
    }


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_of_a_log_stays_visible(change: str, tmp_path: Path) -> None:
    """A repair never makes a log verify that somebody changed."""
    path = written(tmp_path / "log")
    function, _ = CHANGES[change]
    path.write_bytes(b"".join(function(lines(path))))
    before = path.read_bytes()
    assert all(step.do is None for step in repair(path))
    assert path.read_bytes() == before
    with pytest.raises(ValueError, match="log"):
        verify_log(path)


def test_what_killed_processes_left(archive: Path) -> None:
    left = [archive / ".requests.jsonl.0123abcd", archive / "requests.jsonl.head.unfinished"]
    for path in (*left, archive / ".requests.jsonl.mine", archive / "edits" / ".000001.safetensors.0123abcd"):
        path.write_text("half")
        os.utime(path, (0, time.time() - 100))
    new = archive / ".requests.jsonl.0123abce"  # another process may be making it
    new.write_text("half")
    assert len(repaired(archive)) == 3
    assert not any(path.exists() for path in left)
    assert new.exists()
    assert (archive / ".requests.jsonl.mine").exists()
    assert verify_archive(archive) == (3, 3)


def test_old_values_that_must_be_gone(folder: Path) -> None:
    subject = live(folder, undo="expire:1s")
    subject.forget(1)
    path = folder / "undo" / "000001.safetensors"
    kept = path.read_bytes()
    time.sleep(1.1)
    subject.forget(3)
    path.write_bytes(kept)
    assert [step.text for step in repaired(folder)] == [f"remove `{path}`, old values that must be gone by the log"]
    assert not path.exists()
    verify_archive(folder)


def test_receipts_that_are_lost_do_not_keep_the_rest_from_being_repaired(archive: Path) -> None:
    (archive / "edits" / "000002.safetensors").unlink()
    head(archive).unlink()
    done = repaired(archive)
    assert [bool(step.do) for step in done] == [True, False]
    assert "must be there: it is the receipt of edit 2" in done[1].text
    for part in ("edits", "undo"):
        (archive / part).rename(archive / f"no {part}")
    assert "bring it back from a backup" in repair(archive)[-1].text
    assert not (archive / "edits").exists()


def test_nobody_may_edit_meanwhile(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    from fastforget.serving.history import repair as module

    monkeypatch.setattr(module, "_PATIENCE", 0.1)
    for name in ("editing", "requests.jsonl"):
        with (archive / name).open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            with pytest.raises(TimeoutError, match="another process"):
                repair(archive)


def test_no_archive(tmp_path: Path) -> None:
    for call in (repair_steps, repair):
        with pytest.raises(FileNotFoundError):
            call(tmp_path)
