"""A live model goes back to any version whose old values are kept."""

import time
from typing import Any

import pytest
import torch
from serving.live_models import X, assert_healthy, live


def test_ways_back() -> None:
    subject = live()
    before = subject(X)
    for cls in (1, 2, 3):
        subject.forget(cls)
    after = subject.predict(X)
    back = subject.revert(1)
    assert (back.number, back.classes, back.fingerprint) == (4, (1,), subject.versions[1].fingerprint)
    assert torch.equal(subject.revert(0) and subject(X), before)
    with pytest.raises(ValueError, match=r"^version 3 has edits that version 5 has not: apply their receipts$"):
        subject.revert(3)
    for receipt in subject.receipts(3):
        subject.apply(receipt)
    assert torch.equal(subject(X), after.outputs)
    assert subject.version.fingerprint == subject.versions[3].fingerprint
    assert_healthy(subject, 8)


def test_no_way_back_where_nothing_was_kept() -> None:
    subject = live()
    subject.forget(1, undo="never")
    subject.forget(2)
    assert subject.revert(1).classes == (1,)
    with pytest.raises(ValueError, match=r"^edit 1 cannot be gone back on: its old values are not kept$"):
        subject.revert(0)
    assert_healthy(subject, 3)


def test_no_way_back_when_time_is_over() -> None:
    subject = live(undo="expire:1s")
    subject.forget(1)
    assert subject.receipts(1)[0].reversible
    time.sleep(1.1)
    with pytest.raises(ValueError, match=r"^edit 1 cannot be gone back on"):
        subject.revert(0)
    assert not subject.receipts(1)[0].reversible
    subject.forget(2, undo="keep")
    assert subject.revert(1).classes == (1,)


@pytest.mark.parametrize("number", [4, -1, True, "1", 1.0])
def test_versions_that_are_not_there(number: Any) -> None:
    subject = live()
    with pytest.raises(ValueError, match=r"^`number` must be that of a version, 0 to 0, got "):
        subject.revert(number)
    assert_healthy(subject, 0)
