"""The search for the length of a step: the first that leads to a depth, from below."""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from fastforget import ForgettingError
from fastforget.class_forgetting.code_batch import CodeBatch
from fastforget.class_forgetting.stage import Stage
from fastforget.class_forgetting.step_length import first_step_to_depth


class Curve(Stage):
    """A stage on which the forget code's log-odds are any function of the step; it records what was tried."""

    def __init__(self, response: Callable[[float], float]) -> None:
        super().__init__(nn.Identity(), {})
        self.response, self.length, self.tried = response, math.nan, list[float]()

    def move(self, length: float) -> None:
        self.length = length
        self.tried.append(length)

    def outputs(self, inputs: object) -> Tensor:  # noqa: ARG002 - a curve has none
        return torch.tensor([[self.response(self.length), 0.0]], dtype=torch.float64)


CODES = CodeBatch(torch.zeros(1, 1), torch.tensor([0]), torch.tensor([7.0]), class_rows=((0,),))
CURVES: dict[str, tuple[Callable[[float], float], float, float]] = {
    # response, its fall at zero, the first step at which it is -6
    "line": (lambda a: 7 - 3 * a, 3, 13 / 3),
    "steeper": (lambda a: 7 - 3 * a - a**3, 3, 1.928405),
    "flatter": (lambda a: 7 - 13.5 * math.tanh(a), 13.5, math.atanh(13 / 13.5)),
    "slower": (lambda a: 7 - 13 * math.log1p(a), 13, math.e - 1),
    "wave": (lambda a: 7 - 20 * math.sin(a), 20, math.asin(0.65)),
    "comes back": (lambda a: 7 - 13 * a if a < 1.3 else 50.0, 13, 1.0),
    "ten times the estimated fall": (lambda a: 7 - 30 * a, 3, 13 / 30),
    "a hundredth of it": (lambda a: 7 - 0.03 * a, 3, 1300 / 3),
    "NaN beyond": (lambda a: 7 - 13 * a if a < 1.05 else math.nan, 13, 1.0),
    "minus infinity beyond": (lambda a: 7 - 13 * a if a < 1.05 else -math.inf, 13, 1.0),
    "off a cliff": (lambda a: 7 - 12 * a if a < 1.2 else -1e30, 12, 13 / 12),
}


@pytest.mark.parametrize("name", CURVES)
def test_first_step_at_a_depth(name: str) -> None:
    response, fall, expected = CURVES[name]
    stage = Curve(response)
    length = first_step_to_depth(stage, CODES, 7.0, fall, 6.0, 1e3)
    assert abs(response(length) + 6) <= 0.1
    assert length == pytest.approx(expected, rel=0.05)
    assert stage.length == length  # the stage is left there
    assert len(stage.tried) < 40


# Measured: how many nats the codes of a class are short of the depth, by the step in units of the first order's.
MEASURED: dict[str, tuple[list[tuple[float, float]], int]] = {
    "line": ([(0, 13), (1, 0.5), (1.1, -0.75)], 2),
    "digits, class 0": ([(0, 13.5), (1, 6.7), (2, 4), (2.9, 1.7), (3.4, 0.6), (3.6, -0.2), (5.6, -32)], 3),
    "digits, class 9": ([(0, 13.8), (1, 6.7), (2, 4.3), (2.4, 3.4), (2.8, 1.3), (3.1, -1.1), (5.9, -102)], 5),
    "small resnet, class 6": ([(0, 12), (1, 6.6), (2.2, 5.1), (6.5, 3.3), (7.1, 1.5), (7.5, -0.2), (16, -302)], 10),
}


@pytest.mark.parametrize("name", MEASURED)
def test_few_steps_are_tried(name: str) -> None:
    points, most = MEASURED[name]

    def response(length: float) -> float:
        (low, above), (high, below) = next(pair for pair in pairwise(points) if length <= pair[1][0])
        return above + (length - low) / (high - low) * (below - above) - 6

    stage, odds = Curve(response), points[0][1] - 6
    length = first_step_to_depth(stage, CODES, odds, points[0][1], 6.0, 16.0)
    assert abs(response(length) + 6) <= 0.1
    assert len(stage.tried) <= most


def test_a_jump_is_crossed_just_behind() -> None:
    stage = Curve(lambda a: 7 - a if a < 2 else -20 - a)
    length = first_step_to_depth(stage, CODES, 7.0, 1.0, 6.0, 16.0)
    assert 2 <= length < 2.02
    assert stage.length == length


@pytest.mark.parametrize(
    "response",
    [
        lambda _: 7.0,
        lambda a: 7 - 12 * math.tanh(a),
        lambda a: 7 + a,
        lambda a: 7 - a,
        lambda a: 7.0 if a < 1 else math.nan,
    ],
    ids=["constant", "bounded", "rising", "slow", "breaks"],
)
@pytest.mark.parametrize("reach", [0.5, 1.0, 8.0])
def test_no_step_within_reach_leads_there(response: Callable[[float], float], reach: float) -> None:
    stage = Curve(response)
    with pytest.raises(
        ForgettingError, match=r"^no step along this direction makes the codes forgotten, another `rho`"
    ):
        first_step_to_depth(stage, CODES, 7.0, 12.0, 6.0, reach)
    assert max(stage.tried) <= reach * 13 / 12


def test_codes_that_are_that_deep_already() -> None:
    with pytest.raises(ForgettingError, match=r"^no step along this direction"):
        first_step_to_depth(Curve(lambda a: -7 - a), CODES, -7.0, 1.0, 6.0, 16.0)
