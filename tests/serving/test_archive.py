"""Edits in a folder that several processes share, and that outlives them."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import archive_workers
import pytest
import torch
from archive_workers import CODES, X, network
from torch import nn

from fastforget import ForgettingError, Receipt, audit, fingerprint, one_shot
from fastforget.serving import Archive, LiveModel, read_log, verify_log
from fastforget.serving.history import now


def live(folder: Path, model: nn.Module | None = None, **settings: Any) -> LiveModel:
    return LiveModel(model or network(), CODES, archive=folder, **settings)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "archive"


def test_replicas_come_to_the_same_version(folder: Path) -> None:
    one, other = live(folder), live(folder)
    one.forget(3)
    assert (other.version.number, other.catch_up().fingerprint) == (0, one.version.fingerprint)
    other.forget(4)  # the other way round, without being told: it comes to version 2 before
    one.forget(1)
    assert one.version.classes == (3, 4, 1)
    other.catch_up()
    assert other.versions[-1].fingerprint == one.version.fingerprint
    other.revert(1)
    assert (one.catch_up().classes, one.version.number) == ((3,), 4)
    assert torch.equal(one(X), other(X))
    assert [version.edits for version in one.versions] == [(), (1,), (1, 2), (1, 2, 3), (1,)]


def test_a_service_that_starts_comes_to_the_current_version(folder: Path) -> None:
    before = live(folder)
    before.forget(3)
    before.forget(4)
    before.revert(1)
    before.forget(5)
    started = live(folder)
    assert torch.equal(started(X), before(X))
    assert started.version.classes == (3, 5)
    assert started.revert(1).fingerprint == before.versions[1].fingerprint
    saved = network()  # a checkpoint of version 1, which is on the way
    before.receipts(1)[0].apply(saved)
    assert live(folder, saved).version.fingerprint == started.version.fingerprint
    before.receipts(2)[1].apply(saved)  # of version 2, which was left again: as long as it can be gone back on
    assert live(folder, saved).version.fingerprint == started.version.fingerprint
    with pytest.raises(ValueError, match=r"^`model` must be a version of the archive: its fingerprint must be "):
        live(folder, nn.Linear(12, 6).eval())


def test_an_edit_is_on_the_disk_before_it_is_made(folder: Path) -> None:
    """One that predictions do not let in is made later, by this process, and at once by another."""
    one, other = live(folder, patience=0.1), live(folder)
    with one._gate.shared():
        with in_thread(lambda: one.forget(3)) as errors:
            pass
        assert "were not over in 0.1 s" in str(errors[0])
        assert one.version.number == 0
        assert other.catch_up().classes == (3,)
    assert one.health()["intact"]
    assert one.catch_up().fingerprint == other.version.fingerprint


@contextmanager
def in_thread(work: Any) -> Iterator[list[BaseException]]:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 (given to the caller)
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    yield errors
    thread.join(30)


def records(folder: Path, kind: str) -> list[dict[str, Any]]:
    found = read_log(folder / "requests.jsonl", settled=True)
    return [dict(record.fields) for record in found if record.fields.get("kind") == kind]


def test_the_record(folder: Path) -> None:
    x, y = CODES.inputs, CODES.labels
    batches = {cls: [(x[y == cls], y[y == cls])] for cls in range(6)}
    subject = live(folder, audit=lambda model: audit(model, batches[3], batches[4], [*batches[3], *batches[4]]))
    subject.forget(3, request="ticket-17", asked_by="a person")
    (entry,) = records(folder, "edit")
    assert (entry["request"], entry["asked_by"], entry["classes"]) == ("ticket-17", "a person", [3])
    assert (entry["before"], entry["after"]) == tuple(version.fingerprint for version in subject.versions)
    assert entry["audit"]["metrics"]["forget accuracy"]["value"] == 0
    with pytest.raises(ValueError, match=r"^`request` 'ticket-17' was carried out already: it made version 1$"):
        subject.forget(4, request="ticket-17")
    with pytest.raises(ValueError, match="cls"):
        subject.forget(99, request="ticket-18", asked_by="somebody")
    (refused,) = records(folder, "refused")
    assert (refused["request"], refused["asked_by"], refused["classes"]) == ("ticket-18", "somebody", [99])
    assert "99" in refused["reason"]
    assert verify_log(folder / "requests.jsonl") == 2
    with pytest.raises(TypeError, match=r"^`request` must be a text, got int$"):
        subject.forget(4, request=18)


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


def holds_old(folder: Path, receipt: Receipt) -> list[str]:
    """Which files hold old values of an edit, in a row as they stand in the receipt."""
    old = [edit.old.numpy().tobytes() for edit in receipt.edits.values() if edit.old is not None and len(edit.old) > 3]
    assert old
    return [
        path.parent.name for path in folder.rglob("*") if path.is_file() and any(o in path.read_bytes() for o in old)
    ]


@pytest.mark.parametrize(("policy", "kept"), [("keep", ["undo"]), ("never", []), ("expire:1h", ["undo"])])
def test_old_values_are_where_the_policy_says(folder: Path, policy: str, kept: list[str]) -> None:
    subject, model = live(folder, undo=policy), network()
    receipt = one_shot(model, CODES, 3)
    subject.forget(3)
    assert subject.version.fingerprint == fingerprint(model)
    assert holds_old(folder, receipt) == kept
    assert subject.receipts(1)[0].reversible == bool(kept)
    archive = Archive(folder)
    archive.expire(now() + timedelta(minutes=59))
    assert holds_old(folder, receipt) == kept
    archive.expire(now() + timedelta(minutes=61))
    assert holds_old(folder, receipt) == [part for part in kept if policy == "keep"]
    assert [record["number"] for record in records(folder, "expired")] == ([1] if policy == "expire:1h" else [])
    if policy == "keep":
        subject.revert(0)
        return
    with pytest.raises(ValueError, match=r"^edit 1 cannot be gone back on: its old values are not kept$"):
        subject.revert(0)
    assert live(folder).version.fingerprint == fingerprint(model)


@pytest.mark.parametrize(
    "policy", ["", "always", "expire", "expire:", "expire:3", "expire:3w", "expire:-3d", "expire:1.5d"]
)
def test_policies_that_there_are_not(folder: Path, policy: str) -> None:
    with pytest.raises(ValueError, match=r'^`undo` must be "keep", "never" or "expire:" and a period as "30d"'):
        live(folder, undo=policy)
    with pytest.raises(ValueError, match=r'^`undo` must be "keep"'):
        live(folder).forget(3, undo=policy)


def test_a_thread_follows(folder: Path) -> None:
    one, other = live(folder, undo="expire:1s"), live(folder)
    other.follow(every=0.01)
    with pytest.raises(ValueError, match=r"^`follow` must be called once"):
        other.follow()
    one.forget(3)
    until(lambda: other.version.number == 1)
    assert other.health()["trouble"] is None
    until(lambda: records(folder, "expired"))
    assert not list((folder / "undo").iterdir())
    log = folder / "requests.jsonl"
    good = log.read_bytes()
    log.with_name(log.name + ".head").rename(folder / "away")
    until(lambda: other.health()["trouble"])
    assert "requests.jsonl.head" in other.health()["trouble"]
    assert other.predict(X).version == 1
    (folder / "away").rename(log.with_name(log.name + ".head"))
    until(lambda: other.health()["trouble"] is None)
    assert log.read_bytes() == good
    other.close()
    one.forget(4)
    time.sleep(0.05)
    assert other.version.number == 1
    other.follow(every=0.01)
    until(lambda: other.version.number == 2)
    other.close()


def test_requests_are_carried_out_once(folder: Path) -> None:
    """By whoever follows; what is asked for twice is done once."""
    one, other, filing = live(folder), live(folder), live(folder)
    asked = filing.ask(3, request="ticket-17", asked_by="a person")
    assert (asked.state, asked.classes, filing.requests()) == ("waiting", (3,), (asked,))
    one.follow(every=0.01)
    other.follow(every=0.01)
    filing.ask([4, 5], request="ticket-18")
    filing.ask(3, request="ticket-19")  # forgotten by then
    until(lambda: all(request.state != "waiting" for request in filing.requests()))
    assert filing.ask(3, request="ticket-17") == filing.requests()[0]
    assert [(request.state, request.version) for request in filing.requests()] == [
        ("done", 1),
        ("done", 2),
        ("refused", None),
    ]
    assert "forgotten earlier" in str(filing.requests()[2].reason)
    one.close()
    other.close()
    assert one.version.fingerprint == filing.catch_up().fingerprint
    assert [entry.request for entry in Archive(folder).entries()] == ["ticket-17", "ticket-18"]
    for wrong, error, text in (
        (6, ValueError, r"^`cls` must lie in \[0, 6\), got \[6\]$"),
        ([], ValueError, "^`cls` must name at least one class, got none$"),
        ([1, 1], ValueError, r"^`cls` must name each class once, got \[1, 1\]$"),
        (True, TypeError, "^`cls` must be an int or a sequence of ints, got True$"),
        ([1, "x"], TypeError, "^`cls` must be an int or a sequence of ints"),
    ):
        with pytest.raises(error, match=text):
            filing.ask(wrong)  # type: ignore[arg-type]
    assert len(filing.requests()) == 3
    with pytest.raises(TypeError, match=r"^`asked_by` must be a text, got int$"):
        filing.ask(1, asked_by=3)  # type: ignore[arg-type]


def test_requests_without_an_archive() -> None:
    subject = LiveModel(network(), CODES)
    subject.ask(3, request="a")
    subject.ask(3, request="b")
    subject.follow(every=0.01)
    until(lambda: all(request.state != "waiting" for request in subject.requests()))
    subject.close()
    assert [request.state for request in subject.requests()] == ["done", "refused"]


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
        (changed(receipt, classes=(3, 3)), "each once"),
        (changed(receipt, after="0" * 16), "leave the weights as they are"),
        (changed(receipt, settings={"parameters": None}), "is not a usable receipt"),
    ):
        with pytest.raises((ValueError, ForgettingError), match=text):
            subject.apply(wrong)
    edits = {name: replace(edit, old=edit.new.clone()) for name, edit in receipt.edits.items()}
    subject.apply(changed(receipt, edits=edits))
    with pytest.raises(ValueError, match="a receipt since holds wrong old values"):
        subject.revert(0)
    model = network()
    receipt.apply(model)
    again = changed(one_shot(model, CODES, 4, forgotten=3), classes=(3,))
    with pytest.raises(ValueError, match=r"of classes that are not forgotten yet, each once, got \[3\]"):
        subject.apply(again)
    assert (subject.version.number, subject.health()["intact"]) == (1, True)
    subject.forget(4)
    assert live(folder).version.fingerprint == subject.version.fingerprint


def test_requests_that_cannot_be_carried_out_do_not_stop_others(folder: Path) -> None:
    calls = []

    def audit(model: nn.Module) -> dict[str, Any]:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("no memory left")
        return {}

    subject = live(folder, audit=audit)
    subject.ask(3, request="a")
    subject.ask(4, request="b")
    subject.follow(every=0.01)
    until(lambda: all(request.state != "waiting" for request in subject.requests()))
    subject.close()
    assert [(one.state, one.reason) for one in subject.requests()] == [
        ("refused", "RuntimeError: no memory left"),
        ("done", None),
    ]
    assert len(records(folder, "refused")) == 1
    with pytest.raises(ValueError, match=r"^`request` 'a' was refused already"):
        subject.forget(3, request="a")
    assert len(records(folder, "refused")) == 1


def test_a_name_is_used_once(folder: Path) -> None:
    for subject in (live(folder), LiveModel(network(), CODES)):
        subject.forget(3, request="a")
        subject.ask(4, request="b")
        with pytest.raises(ForgettingError, match="without a request"):
            subject.ask(3, request="a")
        with pytest.raises(ForgettingError, match=r"^'b' is the name of a request for classes \[4\]$"):
            subject.ask(5, request="b")
        assert subject.ask(4, request="b").state == "waiting"


def test_a_prediction_that_hangs_keeps_others_out_rarely(folder: Path) -> None:
    subject, other = live(folder, patience=0.05), live(folder)
    other.forget(3)
    entered, leave = threading.Event(), threading.Event()

    def hang() -> None:
        with subject._gate.shared():
            entered.set()
            leave.wait(30)

    thread = threading.Thread(target=hang)
    thread.start()
    entered.wait(10)
    subject.follow(every=0.001)
    until(lambda: subject.health()["trouble"])
    waits = []
    end = time.monotonic() + 1.0
    while time.monotonic() < end:
        began = time.monotonic()
        assert subject.predict(X).version == 0
        waits.append(time.monotonic() - began)
    assert sum(wait > 0.02 for wait in waits) <= 3  # kept out for 0.05 s, then for half a second not
    leave.set()
    thread.join(10)
    until(lambda: subject.version.number == 1)
    subject.close()


def test_health_does_not_get_in_the_way(folder: Path) -> None:
    subject, stop = live(folder), threading.Event()

    def ask() -> None:
        while not stop.is_set():
            assert subject.health()["intact"]

    with in_thread(ask) as errors:
        for cls in range(4):
            subject.forget(cls)
        subject.revert(0)
        stop.set()
    assert errors == []


def test_requests_are_filed_while_an_edit_takes_long(folder: Path) -> None:
    started, leave = threading.Event(), threading.Event()

    def audit(model: nn.Module) -> dict[str, Any]:
        started.set()
        leave.wait(30)
        return {}

    slow, other = live(folder, audit=audit, patience=0.2), live(folder, patience=0.2)
    with in_thread(lambda: slow.forget(3)) as errors:
        started.wait(30)
        assert other.ask(4, request="b").state == slow.ask(5, request="c").state == "waiting"
        with pytest.raises(TimeoutError, match="another process edits"):
            other.forget(4)
        leave.set()
    assert errors == []


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


def until(condition: Any) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


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


def test_nobody_else_can_read_it(folder: Path) -> None:
    live(folder).forget(3)
    assert all(not path.stat().st_mode & 0o077 for path in (folder, *folder.rglob("*")))


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
