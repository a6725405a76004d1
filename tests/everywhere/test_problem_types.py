"""Models whose outputs are independent of each other, or no classes at all, are not taken for classifiers."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
from known_codes import refused
from learners import FORGET, MEMBERS, REMAIN, learner
from torch import nn

from fastforget import MnemonicCodes, audit, inscribe, learn_to_unlearn, one_shot

CODES = MnemonicCodes.generate(4, (30,), per_class=1)
CALLS: dict[str, Callable[[nn.Module], object]] = {
    "one_shot": lambda model: one_shot(model, None, 2, samples=MEMBERS, level="output"),
    "learn_to_unlearn": lambda model: learn_to_unlearn(model, FORGET, REMAIN, steps=1),
    "inscribe": lambda model: inscribe(model, CODES, REMAIN),
    "audit": lambda model: audit(model, FORGET, REMAIN, REMAIN),
    "audit, beside": lambda model: audit(learner(), FORGET, REMAIN, REMAIN, original=model),
}


@pytest.mark.parametrize("problem", ["multi_label_classification", "regression"])
@pytest.mark.parametrize("call", CALLS)
def test_other_problems_are_refused(call: str, problem: str) -> None:
    model = learner()
    model.config = SimpleNamespace(problem_type=problem)
    with refused(model, ValueError, rf"^`model` must tell one class of each sample, got one with .* '{problem}'"):
        CALLS[call](model)


def test_a_configuration_that_says_classes_is_none() -> None:
    for problem in ("single_label_classification", None):
        model = learner()
        model.config = SimpleNamespace(problem_type=problem)
        one_shot(model, None, 2, samples=MEMBERS, level="output")
