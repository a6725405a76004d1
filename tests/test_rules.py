"""The rules' parts: log-odds, the scaled loss, and the search for the step."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from known_codes import knowing
from torch import Tensor, nn

from fastforget import ForgettingError, fisher_diagonal
from fastforget.fisher import FisherDiagonal
from fastforget.forgetting import rules
from fastforget.forgetting.code_batch import CodeBatch
from fastforget.forgetting.sensitivity import Sensitivity
from fastforget.forgetting.staging import Stage
from fastforget.losses import ScaledCrossEntropy, log_odds

ZERO = torch.tensor([0])


@given(st.lists(st.floats(-30, 30), min_size=2, max_size=6), st.data())
def test_log_odds_are_those_of_the_softmax(values: list[float], data: st.DataObject) -> None:
    label = data.draw(st.integers(0, len(values) - 1))
    logits = torch.tensor([values], dtype=torch.float64)
    p = logits.softmax(1)[0]
    others = torch.cat([p[:label], p[label + 1 :]]).sum()
    found = log_odds(logits, torch.tensor([label]))
    assert found.shape == (1,)
    assert found.item() == pytest.approx((p[label].log() - others.log()).item(), abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gap", [10.0, 17.0, 40.0, 90.0, 1e4])
def test_log_odds_near_certainty(gap: float, dtype: torch.dtype) -> None:
    """Where p rounds to 1 (or to 0) they are still right to the last digits."""
    logits = torch.tensor([[gap, 0.0, 0.0]], dtype=dtype)
    expected = gap - math.log(2)
    assert log_odds(logits, ZERO).item() == pytest.approx(expected, rel=1e-6)
    assert log_odds(logits[:, [1, 0, 2]], ZERO).item() == pytest.approx(-gap - math.log1p(math.exp(-gap)), rel=1e-6)
    assert log_odds(logits + 1000, ZERO).item() == pytest.approx(expected, rel=1e-6, abs=2e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_log_odds_of_narrow_types_are_float32(dtype: torch.dtype) -> None:
    logits = torch.tensor([[5.0, 1.0, 0.5, 3.0]], dtype=dtype)
    found = log_odds(logits, ZERO)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(log_odds(logits.double(), ZERO).item(), rel=1e-6)


def test_log_odds_of_two_classes_and_of_broken_logits() -> None:
    assert log_odds(torch.tensor([[3.0, 1.0]]), ZERO).item() == 2
    assert log_odds(torch.tensor([[-math.inf, 1.0]]), ZERO).item() == -math.inf
    assert math.isnan(log_odds(torch.tensor([[math.inf, math.inf]]), ZERO).item())


def test_loss_is_the_cross_entropy() -> None:
    logits = torch.randn(8, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 10
    labels = torch.arange(8) % 5
    torch.testing.assert_close(
        ScaledCrossEntropy(1.0)(logits, labels),
        F.cross_entropy(logits, labels, reduction="none"),
        rtol=1e-10,
        atol=1e-12,
    )
    torch.testing.assert_close(ScaledCrossEntropy(7.0)(logits, labels), 7 * ScaledCrossEntropy(1.0)(logits, labels))


@pytest.mark.parametrize("gap", [5.0, 20.0, 60.0, 200.0])
def test_gradient_of_the_loss_where_p_rounds_to_one(gap: float) -> None:
    """It reaches the own logit as p - 1 = -1 / (1 + exp(gap)), which float32 rounds to 0 from 17 nats on."""
    logits = torch.tensor([[gap, 0.0]], requires_grad=True)
    scale = 1 / torch.sigmoid(torch.tensor(-gap, dtype=torch.float64)).item()
    (gradient,) = torch.autograd.grad(ScaledCrossEntropy(scale)(logits, ZERO).sum(), logits)
    assert gradient.tolist()[0] == pytest.approx([-1, 1], rel=1e-5)


class Curve(Stage):
    """A stage on which the forget code's log-odds are any function of the step; it records what was tried."""

    def __init__(self, response: Callable[[float], float]) -> None:
        super().__init__(nn.Identity(), {})
        self.response, self.alpha, self.tried = response, math.nan, list[float]()

    def step(self, alpha: float) -> None:
        self.alpha = alpha
        self.tried.append(alpha)

    def outputs(self, inputs: object) -> Tensor:  # noqa: ARG002 - a curve has none
        return torch.tensor([[self.response(self.alpha), 0.0]], dtype=torch.float64)


CODES = CodeBatch(torch.zeros(1, 1), torch.tensor([0]), torch.tensor([True]), torch.tensor([7.0]))
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
    alpha = rules._first_step(stage, CODES, 7.0, fall, 6.0, 1e3)
    assert abs(response(alpha) + 6) <= 0.1
    assert alpha == pytest.approx(expected, rel=0.05)
    assert stage.alpha == alpha  # the stage is left there
    assert len(stage.tried) < 40


def test_a_jump_is_crossed_just_behind() -> None:
    stage = Curve(lambda a: 7 - a if a < 2 else -20 - a)
    alpha = rules._first_step(stage, CODES, 7.0, 1.0, 6.0, 16.0)
    assert 2 <= alpha < 2.02
    assert stage.alpha == alpha


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
        rules._first_step(stage, CODES, 7.0, 12.0, 6.0, reach)
    assert max(stage.tried) <= reach * 13 / 12


def test_codes_that_are_that_deep_already() -> None:
    with pytest.raises(ForgettingError, match=r"^no step along this direction"):
        rules._first_step(Curve(lambda a: -7 - a), CODES, -7.0, 1.0, 6.0, 16.0)


def test_least_forgotten_is_the_mean_of_the_worst_class() -> None:
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    codes = CodeBatch(torch.zeros(6, 1), labels, labels < 2, torch.zeros(6))
    logits = torch.zeros(6, 3)
    logits[range(6), labels] = torch.tensor([4.0, -6.0, -9.0, 3.0, 50.0, 50.0])
    expected = torch.tensor([-1.0, -3.0]) - math.log(2)
    assert float(codes.least_forgotten(log_odds(logits, labels))) == pytest.approx(expected.max().item())
    logits[2] = math.nan
    assert math.isnan(codes.least_forgotten(log_odds(logits, labels)))


def test_natural_needs_the_gradient() -> None:
    model, given_codes = knowing()
    groups = torch.ones(2, len(given_codes.labels))
    fisher = Sensitivity.of_groups(fisher_diagonal(model, given_codes.inputs, given_codes.labels, weights=groups))
    parameters = dict(model.named_parameters())
    settings = {"rho": 0.1, "widen": 1.0, "depth": 6.0, "spill": 2.0, "reach": 16.0}
    with pytest.raises(TypeError, match=r"^`fisher` must come with the gradient$"):
        rules.natural(model, parameters, fisher, CODES, moving=parameters, **settings)


def test_ratio_of_zeros_and_extremes() -> None:
    """Two zeros are one, and nothing is infinite."""
    values = {"w": torch.tensor([[0.0, 1.0, 0.0, 1e30, math.inf, math.nan], [0.0, 0.0, 1.0, 1e-30, math.inf, 1.0]])}
    fisher = FisherDiagonal(values, gradient=None, fallback={}, losses=torch.zeros(0))
    found = Sensitivity.of_groups(fisher).ratios()["w"]
    largest = torch.finfo(torch.float32).max
    assert found.tolist() == pytest.approx([1, 1e16, 1e-16, largest, 1, 1], rel=1e-5)


def test_paper_rule_bounds() -> None:
    """lambda2 is the largest change where a parameter is sensitive, lambda1 the scale where none is."""
    model = nn.Linear(2, 2).eval()
    ratios = {"weight": torch.tensor([[4.0, 1.0], [2.0, 1.0]]), "bias": torch.tensor([1e-3, 1e-4])}
    fisher = FisherDiagonal(
        {name: torch.stack([value, torch.ones_like(value)]) for name, value in ratios.items()},
        gradient=None,
        fallback={},
        losses=torch.zeros(0),
    )
    codes = CodeBatch(torch.zeros(2, 2), torch.tensor([0, 1]), torch.tensor([True, False]), torch.ones(2))
    originals = {name: p.detach().clone() for name, p in model.named_parameters()}
    parameters = dict(model.named_parameters())
    step = rules.paper(model, parameters, Sensitivity.of_groups(fisher), codes, lambda1=0.5, lambda2=0.1)
    moved = {name: step.stage.parameters[name] - originals[name] for name in originals}
    torch.testing.assert_close(moved["weight"] * step.alpha, ratios["weight"] * 0.1 / 4, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(moved["bias"] * step.alpha, ratios["bias"] * 0.5, rtol=1e-3, atol=1e-7)
    step.retake(0.5)
    torch.testing.assert_close(step.stage.parameters["weight"] - originals["weight"], moved["weight"] / 2)
