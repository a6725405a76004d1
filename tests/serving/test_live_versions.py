"""A live model goes back to any version whose old values are kept."""

import copy
import time
from typing import Any

import pytest
import torch
from learners import FORGET, MEMBERS, REMAIN, learner
from serving.live_models import X, assert_healthy, live
from torch import nn

from fastforget import baselines
from fastforget.serving import LiveModel
from fastforget.serving.engines import Rebuilt
from fastforget.serving.history.entries import Entry, Version, versions


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


def test_versions_that_are_known_are_not_made_again() -> None:
    """Else the work for one edit would grow with the square of those before it."""
    entries = [
        Entry(number, "forget", "a", "b", "now", classes=(number % 3,), to=1 if number == 4 else None)
        for number in range(1, 8)
    ]
    every = versions([Version(0, "a", "now")], entries)
    assert [version.number for version in every] == list(range(8))
    assert every[4].edits == every[1].edits == (1,)
    for count in range(1, 9):
        found = versions(every[:count], entries)
        assert found == every
        assert all(one is other for one, other in zip(found, every[:count], strict=False))


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


def test_receipts_with_statistics_of_batch_norms() -> None:
    subject = LiveModel(learner())
    edited = learner()
    before = subject(MEMBERS[0])
    receipt = baselines.neg_grad_plus(edited, FORGET, REMAIN, epochs=1)
    assert any(name.endswith("running_mean") for name in receipt.edits)
    assert subject.apply(receipt).number == 1
    assert torch.equal(subject(MEMBERS[0]), edited(MEMBERS[0]))
    assert_healthy(subject, 1)
    subject.revert(0)
    assert torch.equal(subject(MEMBERS[0]), before)
    assert_healthy(subject, 2)


def test_an_engine_that_cannot_be_given_other_buffers_refuses_them() -> None:
    first = learner()

    def build(model: nn.Module) -> nn.Module:
        """Weights as they are, statistics as they were."""
        made = copy.deepcopy(model)
        made.load_state_dict(dict(first.named_buffers()), strict=False)
        return made

    x = MEMBERS[0][:8]
    subject = LiveModel(learner(), engine=Rebuilt(build, example=x))
    before = subject(x)
    receipt = baselines.neg_grad_plus(learner(), FORGET, REMAIN, epochs=1)
    with pytest.raises(ValueError, match=r"outputs"):
        subject.apply(receipt)
    assert torch.equal(subject(x), before)
    assert_healthy(subject, 0)
