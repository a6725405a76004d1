"""Requests are recorded, and carried out once, whoever follows."""

import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from serving.archive_workers import CODES, network
from serving.history.archives import in_thread, live, records, until
from torch import nn

from fastforget import ForgettingError, audit
from fastforget.serving import Archive, LiveModel, read_log, verify_log
from fastforget.serving.history.log import RequestLog


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


def test_what_was_done_is_on_record(folder: Path) -> None:
    """Logs of versions that did not record it are read as well."""
    subject = live(folder)
    subject.ask(3, request="ticket-17")
    made = subject.forget(3, request="ticket-17")
    assert made.outcome == subject.receipts(1)[0].outcome != ""
    (edit,) = records(folder, "edit")
    assert (edit["claims"], edit["outcome"]) == (["disconnected"], made.outcome)
    (entry,), (request,) = Archive(folder).entries(), live(folder).requests()
    assert (entry.claims, entry.outcome) == (made.claims, made.outcome) == (request.claims, request.outcome)
    older = [record.fields for record in read_log(folder / "requests.jsonl")[1:]]
    for part in folder.glob("requests.jsonl*"):
        part.unlink()
    with closing(RequestLog(folder / "requests.jsonl")) as log:
        for fields in older:
            log.append({name: value for name, value in fields.items() if name not in ("claims", "outcome")})
    found = live(folder)
    assert (found.version.fingerprint, found.version.outcome) == (made.fingerprint, "")
    assert found.requests()[0].state == "done"
    assert found.revert(0).number == 2


def test_requests_without_an_archive() -> None:
    subject = LiveModel(network(), CODES)
    subject.ask(3, request="a")
    subject.ask(3, request="b")
    subject.follow(every=0.01)
    until(lambda: all(request.state != "waiting" for request in subject.requests()))
    subject.close()
    assert [request.state for request in subject.requests()] == ["done", "refused"]


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
