"""The record of requests: whatever is changed is found, and whatever was written survives."""

import errno
import json
import os
import random
import resource
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fastforget import cli
from fastforget.serving import RequestLog, read_log, verify_log
from fastforget.serving.history import records

FIELDS = [{"request": n, "classes": [n % 10], "by": "Zoë \u2028 at ACME\n", "alpha": 0.1 * n} for n in range(5)]


def written(path: Path) -> Path:
    with closing(RequestLog(path)) as log:
        for fields in FIELDS:
            log.append(fields)
    return path


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    with closing(RequestLog(path)) as log:
        made = [log.append(fields) for fields in FIELDS]
    with closing(RequestLog(path)) as log:
        assert log.last == made[-1]
        made.append(log.append({"event": "later"}))
    records = read_log(path)
    assert records[1:] == made
    assert [dict(record.fields) for record in records[1:6]] == FIELDS
    assert [record.number for record in records] == list(range(7))
    assert verify_log(path, made[2].hash) == 6
    assert len(path.read_bytes().splitlines()) == 7
    assert path.stat().st_mode & 0o777 == 0o600


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def swap(found: list[bytes]) -> list[bytes]:
    return [*found[:2], found[3], found[2], *found[4:]]


def rehash(found: list[bytes]) -> list[bytes]:
    """A record is changed by somebody who knows how hashes are made, but not all that follow."""
    content = json.loads(found[3])
    record = records.make_record(content["number"], {"request": 99}, content["previous"], content["time"])
    return [*found[:3], record.line(), *found[4:]]


CHANGES: dict[str, tuple[Callable[[list[bytes]], list[bytes]], str]] = {
    "a value": (lambda found: [*found[:3], found[3].replace(b"ACME", b"ACNE"), *found[4:]], "record 3 .* was changed"),
    "a space": (lambda found: [*found[:2], found[2].replace(b":", b": ", 1), *found[3:]], "record 2 .* was changed"),
    "a time": (lambda found: [*found[:2], found[2].replace(b"20", b"21", 1), *found[3:]], "record 2 .* was changed"),
    "a hash made anew": (rehash, "record 4 .* does not follow the one before"),
    "one dropped": (lambda found: found[:2] + found[3:], "record 2 .* does not follow"),
    "the first dropped": (lambda found: found[1:], "record 0 .* does not follow"),
    "the last dropped": (lambda found: found[:-1], "record 5 .* must have hash .* dropped or changed"),
    "one twice": (lambda found: [*found[:3], found[2], *found[3:]], "record 3 .* does not follow"),
    "two swapped": (swap, "record 2 .* does not follow"),
    "nonsense": (lambda found: [*found[:2], b"nonsense\n", *found[2:]], "record 2 .* is none"),
    "other JSON": (lambda found: [*found[:2], b"[]\n", *found[2:]], "record 2 .* is none"),
    "nested": (lambda found: [*found[:2], b"[" * 100_000 + b"\n", *found[2:]], "record 2 .* is none"),
    "all dropped": (lambda _: [], "must be a log of this library, got an empty file|must have hash"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_found(change: str, tmp_path: Path) -> None:
    path = written(tmp_path / "log")
    function, text = CHANGES[change]
    path.write_bytes(b"".join(function(lines(path))))
    before = path.read_bytes()
    for read in (read_log, verify_log, RequestLog):
        with pytest.raises(ValueError, match=text):
            read(path)
    assert path.read_bytes() == before
    result = CliRunner().invoke(cli.app, ["log", "verify", str(path)])
    assert isinstance(result.exception, ValueError)


def test_every_bit_counts(tmp_path: Path) -> None:
    path = written(tmp_path / "log")
    data = path.read_bytes()
    draw = random.Random(7)  # noqa: S311 (which bits)
    for place in draw.sample(range(len(data) - 1), 300):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :])
        with pytest.raises(ValueError, match="`"):
            verify_log(path)


def test_a_log_made_anew_is_found_by_a_hash_kept_elsewhere(tmp_path: Path) -> None:
    path, other = written(tmp_path / "log"), tmp_path / "other"
    known = read_log(path)[-1].hash
    with closing(RequestLog(other)) as log:
        log.append(FIELDS[0])
    assert verify_log(other) == 1
    with pytest.raises(ValueError, match=f"must hold a record with hash {known}, got none"):
        verify_log(other, known)


@pytest.mark.parametrize(
    ("head", "text"),
    [
        (None, "must be there, with the last record"),
        (b"nonsense", "does not hold the number and the hash of a record"),
        (b'{"number":9,"hash":""}', "record 9 .* must have hash"),
        (b'{"number":-1,"hash":""}', "record -1 .* must have hash"),
        ("older", "is of record 3, but .* goes on to 5"),
    ],
)
def test_heads(head: Any, text: str, tmp_path: Path) -> None:
    path = written(tmp_path / "log")
    file = tmp_path / "log.head"
    if head is None:
        file.unlink()
    elif head == "older":
        file.write_text(json.dumps({"number": 3, "hash": read_log(path)[3].hash}))
    else:
        file.write_bytes(head)
    with pytest.raises(ValueError, match=text):
        verify_log(path)


def test_a_second_process_may_read_but_not_write(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with closing(RequestLog(path)) as log:
        log.append(FIELDS[0])
        with pytest.raises(BlockingIOError, match=r"^another process writes to"):
            RequestLog(path)
        assert verify_log(path) == 1
    with pytest.raises(ValueError, match="must be open"):
        log.append(FIELDS[1])


@pytest.mark.parametrize("fields", [{"x": float("nan")}, {"x": object()}])
def test_what_json_does_not_know(fields: Any, tmp_path: Path) -> None:
    with closing(RequestLog(tmp_path / "log")) as log:
        before = log.last
        with pytest.raises((TypeError, ValueError)):
            log.append(fields)
        assert log.last == before
    assert verify_log(tmp_path / "log") == 0


def test_a_disk_that_is_full(tmp_path: Path) -> None:
    """The record that does not fit is not there, the others are, and it goes on when there is room."""
    path = tmp_path / "log"
    with closing(RequestLog(path)) as log:
        log.append(FIELDS[0])
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, hard))
        try:
            with pytest.raises(OSError, match="File too large"):
                log.append(FIELDS[1])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert verify_log(path) == 1
        log.append(FIELDS[2])
    assert [record.fields.get("request") for record in read_log(path)] == [None, 0, 2]


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        RequestLog(tmp_path / "nowhere" / "log")
    with pytest.raises(IsADirectoryError):
        RequestLog(tmp_path)
    with pytest.raises(FileNotFoundError):
        verify_log(tmp_path / "none")
    (tmp_path / "text").write_text("hello\n")
    with pytest.raises(ValueError, match=r"record 0 of .* is none"):
        RequestLog(tmp_path / "text")
    assert (tmp_path / "text").read_text() == "hello\n"


def test_an_unfinished_line_is_no_record(tmp_path: Path) -> None:
    path = written(tmp_path / "log")
    whole = path.read_bytes()
    for part in (b"{", records.make_record(6, FIELDS[0], read_log(path)[-1].hash).line()[:-1]):
        path.write_bytes(whole + part)
        assert verify_log(path) == 5
        with closing(RequestLog(path)) as log:
            assert log.last.number == 5
        assert path.read_bytes() == whole


def test_a_record_that_the_head_does_not_know_yet(tmp_path: Path) -> None:
    """Killed between the two."""
    path = written(tmp_path / "log")
    head = tmp_path / "log.head"
    before = head.read_bytes()
    with closing(RequestLog(path)) as log:
        log.append(FIELDS[0])
    head.write_bytes(before)
    assert verify_log(path) == 6
    with closing(RequestLog(path)) as log:
        assert log.append(FIELDS[1]).number == 7
    assert verify_log(path) == 7


def test_the_head_is_on_the_disk_when_a_record_is_acknowledged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder, which holds the head's new name, is synced after the last rename."""
    done: list[tuple[str, bool]] = []

    def noting(name: str, real: Any) -> Any:
        def call(*args: Any) -> Any:
            done.append((name, name == "fsync" and stat.S_ISDIR(os.fstat(args[0]).st_mode)))
            return real(*args)

        return call

    with closing(RequestLog(tmp_path / "log")) as log, monkeypatch.context() as patched:
        patched.setattr(os, "fsync", noting("fsync", os.fsync))
        patched.setattr(Path, "replace", noting("replace", Path.replace))
        log.append(FIELDS[0])
    assert done[-2:] == [("replace", False), ("fsync", True)]


@pytest.mark.parametrize("how", ["cut", "replaced", "grown"])
def test_a_log_that_somebody_changed_is_not_gone_on_with(how: str, tmp_path: Path) -> None:
    path = written(tmp_path / "log")
    whole, head = path.read_bytes(), (tmp_path / "log.head").read_bytes()
    with closing(RequestLog(path)) as log:
        if how == "replaced":
            (tmp_path / "other").write_bytes(whole)
            (tmp_path / "other").replace(path)
        else:
            path.write_bytes(whole[: whole[:-1].rfind(b"\n") + 1] if how == "cut" else whole + whole[-40:])
        before = path.read_bytes()
        with pytest.raises(ValueError, match=r"must end with record 5, but somebody else changed it$"):
            log.append(FIELDS[0])
    assert (path.read_bytes(), (tmp_path / "log.head").read_bytes()) == (before, head)


# A process of its own that loads nothing but the log, and says of each record when it is on the disk.
WRITER = """
import importlib, os, sys, types
for name in ("fastforget", "fastforget.serving"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [os.path.join(sys.argv[1], *name.split("."))]
log = importlib.import_module("fastforget.serving.history.log").RequestLog(sys.argv[2])
os.write(1, b"%d\\n" % log.last.number)
while True:
    os.write(1, b"%d\\n" % log.append({"text": "x" * 3000}).number)
"""


def test_killed_at_any_moment(tmp_path: Path) -> None:
    """Two hundred times: nothing that was acknowledged is lost, nothing half-written is taken for a record."""
    path, draw = tmp_path / "log", random.Random(3)  # noqa: S311 (when)
    command = [sys.executable, "-S", "-c", WRITER, str(Path(records.__file__).parents[3]), str(path)]
    acknowledged = 0
    for _ in range(200):
        process = subprocess.Popen(command, stdout=subprocess.PIPE)  # noqa: S603 (our own interpreter)
        assert process.stdout is not None
        lines = []
        if draw.random() < 0.8:  # else already while it starts
            lines += [process.stdout.readline() for _ in range(draw.randrange(1, 6))]  # however busy the machine is
            assert int(lines[0]) >= acknowledged
        time.sleep(draw.random() * 0.01)
        process.send_signal(signal.SIGKILL)
        said = [int(line) for line in (*lines, *process.stdout.read().splitlines())]
        process.stdout.close()
        process.wait()
        acknowledged = max([acknowledged, *said])
        if path.exists():
            assert verify_log(path) >= acknowledged
    with closing(RequestLog(path)) as log:
        assert log.last.number >= acknowledged > 200


# Makes a log, and kills itself before a given one of the calls that change files.
KILLED = (
    WRITER[: WRITER.index("log = ")]
    + """
import itertools, signal
calls, at = itertools.count(), int(sys.argv[3])
def dying(function):
    def call(*args, **kwargs):
        if next(calls) == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return call
for name in ("open", "write", "fsync", "link", "replace", "rename", "unlink", "ftruncate"):
    setattr(os, name, dying(getattr(os, name)))
importlib.import_module("fastforget.serving.history.log").RequestLog(sys.argv[2]).append({"text": "x"})
"""
)


def test_killed_at_each_call_while_it_is_made(tmp_path: Path) -> None:
    """A log is there with its first record, or not at all; whatever is left, the next process goes on with it."""
    command = [sys.executable, "-S", "-c", KILLED, str(Path(records.__file__).parents[3])]
    for at in range(100):
        path = tmp_path / str(at) / "log"
        path.parent.mkdir()
        status = subprocess.run([*command, str(path), str(at)], check=False).returncode  # noqa: S603 (our own)
        if path.exists():
            verify_log(path)
        with closing(RequestLog(path)) as log:
            log.append(FIELDS[0])
        verify_log(path)
        if not status:
            break
        assert status == -signal.SIGKILL
    assert at > 10


def test_file_systems_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert verify_log(written(tmp_path / "log")) == 5
    assert sorted(file.name for file in tmp_path.iterdir()) == ["log", "log.head"]


def test_the_command_line(tmp_path: Path) -> None:
    path = written(tmp_path / "log")
    runner = CliRunner()
    result = runner.invoke(cli.app, ["log", "verify", str(path), "--known", read_log(path)[3].hash])
    assert result.exit_code == 0
    assert "5 records, none changed, dropped, added or moved" in result.stdout.replace("\n", " ")
    shown = runner.invoke(cli.app, ["log", "show", str(path)]).stdout.splitlines()
    assert [json.loads(line)["request"] for line in shown] == [0, 1, 2, 3, 4]
