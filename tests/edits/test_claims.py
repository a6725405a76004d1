"""What a receipt says was done to its classes, and what was short of its goal."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from edits.edited_models import edited

from fastforget import Receipt

DEEP = {"silenced_by": 0.0, "disconnected": 1.0, "output_depth": 12.04, "output_depth_goal": 12.0}
FLAT = {**DEEP, "output_depth": 3.14}
SPREAD = {"dispersed": 1.0, "features_left": 0.0625, "features_left_goal": 0.1}
LEFT = {**SPREAD, "dispersed": 0.0, "features_left": 0.5}
QUIET = {"silenced_by": 17.25, "disconnected": 0.0, "output_depth": 12.0, "output_depth_goal": 12.0}
DISPERSED = "disconnected, 12.0 nats deep; dispersed, 6% of the way left"
NOT_DISPERSED = "disconnected, 3.1 of 12 nats deep; not dispersed, 50% of the way left, goal 10%"


@pytest.mark.parametrize(
    ("evidence", "claims", "outcome"),
    [
        ({}, (), ""),
        ({"steps": 40.0, "loss": 0.5}, (), ""),
        ({"forget_log_odds_after": -6.0, "silenced_by": 17.25}, ("silenced",), "silenced, by 17.2 nats"),
        ({"forget_log_odds_after": -6.0, "silenced_by": 0.0}, (), ""),
        ({"silenced_by": 0.0, "disconnected": 0.0}, (), "neither silenced nor disconnected"),
        (QUIET, ("silenced",), "silenced, 12.0 nats deep"),
        (DEEP, ("disconnected",), "disconnected, 12.0 nats deep"),
        ({**DEEP, "output_depth": 8.01}, ("disconnected",), "disconnected, 8.0 nats deep"),
        (FLAT, ("disconnected",), "disconnected, 3.1 of 12 nats deep"),
        ({**DEEP, **SPREAD}, ("disconnected", "dispersed"), DISPERSED),
        ({**FLAT, **LEFT}, ("disconnected",), NOT_DISPERSED),
        ({**DEEP, "dispersed": 1.0}, ("disconnected", "dispersed"), "disconnected, 12.0 nats deep; dispersed"),
    ],
)
def test_claims_and_what_was_short(
    evidence: Mapping[str, float], claims: tuple[str, ...], outcome: str, tmp_path: Path
) -> None:
    receipt = replace(edited()[2], evidence=evidence)
    receipt.save(tmp_path / "receipt")
    for one in (receipt, Receipt.load(tmp_path / "receipt")):
        assert (one.claims, one.outcome) == (claims, outcome)
        described = one.describe()
        assert (described["claims"], described["outcome"]) == (list(claims), outcome)
        assert (f"outcome={outcome!r}" in repr(one)) == bool(outcome)


def test_what_one_shot_did_is_claimed() -> None:
    assert edited()[2].claims == ("disconnected",)
    assert edited("paper")[2].outcome == "neither silenced nor disconnected"


def test_classes_by_name() -> None:
    receipt = replace(edited()[2], classes=(1, 2), evidence=DEEP)
    share = f"{receipt.changed} of {receipt.total} parameters changed ({receipt.share:.2%})"
    assert receipt.summary() == f"classes 1, 2: disconnected, 12.0 nats deep; {share}"
    assert receipt.summary(["cat", "dog"]) == f"classes 1 (dog), 2: disconnected, 12.0 nats deep; {share}"
    assert replace(receipt, classes=(0,), evidence={}).summary(["cat"]) == f"class 0 (cat), {share}"
    assert replace(receipt, classes=(), evidence={}).summary(["cat"]) == f"samples, {share}"
    assert receipt.describe(["cat", "dog"]) == {**receipt.describe(), "class_names": ["dog", None]}
    for said in (receipt.summary, receipt.describe):
        with pytest.raises(TypeError, match=r"^`names` must be the names of classes"):
            said("cat")
