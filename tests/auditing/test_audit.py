"""`audit` returns a report and refuses wrong arguments."""

import math
from typing import Any

import pytest
from auditing.subjects import TEST
from learners import (
    CLASS,
    CLASSES,
    FORGET,
    REMAIN,
    REST,
    SIZE,
    learner,
)
from torch import nn

from fastforget import MnemonicCodes
from fastforget.auditing import AuditReport, audit
from fastforget.membership.model import MembershipModel

X, Y = TEST[0]
REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"model": None}, TypeError, "^`model` must be a torch.nn.Module, got NoneType"),
    ({"forget": []}, ValueError, "^`forget` must hold at least one batch"),
    ({"test": []}, ValueError, "^`test` must hold at least one batch"),
    ({"remain": [(X * math.nan, Y)]}, ValueError, "^models must return finite logits on `remain`"),
    ({"remain": [(X, Y + CLASSES)]}, ValueError, r"^targets of `remain` must be in \[0, 4\)"),
    ({"remain": [(X, Y.float())]}, TypeError, "^targets of `remain` must be torch.int64"),
    (
        {"test": [(X[Y != 1], Y[Y != 1])]},
        ValueError,
        r"^`test` must hold samples of every class to .* none of \[1\]",
    ),
    (
        {"forget": [(X[Y == 1], Y[Y == 1])], "test": [(X[Y == 1], Y[Y == 1])], "remain": [(X[Y == 2], Y[Y == 2])]},
        ValueError,
        r"^`test` must hold samples of classes that remain, got none of \[2\]",
    ),
    ({"retrained": nn.Linear(SIZE, 9)}, ValueError, "^models must have the same number of classes"),
    ({"model": 3}, TypeError, "^`model` must be a torch.nn.Module"),
    ({"attacks": {"mine": nn.Linear(1, 1)}}, TypeError, "^`attacks` must be membership models"),
    ({"attacks": {"loss": MembershipModel("loss", 4)}}, ValueError, "^`attacks` must have names of their own"),
    ({"attacks": {"RMIA": MembershipModel("loss", 4)}}, ValueError, "^`attacks` must have names of their own"),
    ({"codes": MnemonicCodes.generate(9, (SIZE,))}, ValueError, "^`codes` must be of 4 classes, got 9"),
    ({"remain": [(X, Y.double().tolist())]}, TypeError, "^targets of `remain` must be torch.int64"),
    ({"remain": [(X, Y[:, None])]}, TypeError, "^targets of `remain` must be torch.int64"),
    ({"attacks": {"other": MembershipModel("loss", 9)}}, ValueError, r"^`logits` must be \[N, 9\]"),
    ({"relearning_steps": 1.5}, TypeError, "^`relearning_steps` must be an integer"),
    ({"relearning_steps": -1}, ValueError, "`relearning_steps` must be at least 0, got -1"),
]


@pytest.mark.parametrize(("change", "error", "text"), REFUSED)
def test_refused(change: dict[str, Any], error: type[Exception], text: str) -> None:
    given = {"model": learner(), "forget": FORGET, "remain": REMAIN, "test": TEST, **change}
    with pytest.raises(error, match=text):
        audit(**given)


def test_it_is_a_report() -> None:
    assert isinstance(audit(learner(), CLASS, REST, TEST, relearning_steps=0), AuditReport)
