"""Edits in a folder are shared by several processes, and outlive them."""

import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from serving.archive_workers import CODES, X, network
from serving.history.archives import in_thread, live, records, until
from torch import nn

from fastforget import Receipt, fingerprint, one_shot
from fastforget.serving import Archive
from fastforget.serving.history.entries import now


def alone() -> nn.Module:
    """No copy stands in for it: predictions are kept out while it is edited."""
    return nn.DataParallel(network()).eval()


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
    one, other = live(folder, alone(), patience=0.1), live(folder)
    with one._replica.gate.shared():
        with in_thread(lambda: one.forget(3)) as errors:
            pass
        assert "were not over in 0.1 s" in str(errors[0])
        assert one.version.number == 0
        assert other.catch_up().classes == (3,)
    assert one.health()["intact"]
    assert one.catch_up().fingerprint == other.version.fingerprint


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


def test_a_prediction_that_hangs_keeps_others_out_rarely(folder: Path) -> None:
    subject, other = live(folder, alone(), patience=0.05), live(folder)
    other.forget(3)
    entered, leave = threading.Event(), threading.Event()

    def hang() -> None:
        with subject._replica.gate.shared():
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


def test_nobody_else_can_read_it(folder: Path) -> None:
    live(folder).forget(3)
    assert all(not path.stat().st_mode & 0o077 for path in (folder, *folder.rglob("*")))
