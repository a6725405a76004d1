"""Log-odds and the scaled loss, where a model is sure of its codes."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from fastforget.classifier.losses import GroupScaledCrossEntropy, ScaledCrossEntropy, log_odds, odds_of_losses

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


@pytest.mark.parametrize("gap", [5.0, 39.9, 40.1, 700.0, 2e4])
def test_a_scale_beyond_any_float_by_its_logarithm(gap: float) -> None:
    """Class 0 has the scale 1 / (1 - p) = 1 + exp(gap), class 1 a third."""
    logits = torch.tensor([[gap, 0.0], [0.0, 0.5]], requires_grad=True)
    log_inverse = -torch.nn.functional.logsigmoid(torch.tensor(-gap).double()).item()
    loss = GroupScaledCrossEntropy(ZERO, (log_inverse, math.log(1 / 3)))
    losses = loss(logits, torch.tensor([0, 1]))
    expected = math.log1p(math.exp(-gap)) * (1 + math.exp(gap)) if gap < 30 else 1.0
    assert losses.tolist() == pytest.approx([expected, math.log1p(math.exp(-0.5)) / 3], rel=1e-9)
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    of_other = 1 / 3 / (1 + math.exp(0.5))
    assert gradient.flatten().tolist() == pytest.approx([-1, 1, of_other, -of_other], rel=1e-6)


@pytest.mark.parametrize("log_scale", [0.0, 500.0, -20.0])
def test_odds_are_read_off_losses(log_scale: float) -> None:
    odds = torch.tensor([-1e4, -5.0, 0.1, 5.0, 39.9, 40.1, 200.0]).double()
    logits = torch.stack([odds, torch.zeros_like(odds)], 1)
    losses = GroupScaledCrossEntropy(ZERO, (log_scale, 0.0))(logits, torch.zeros(7).long())
    assert odds_of_losses(losses, log_scale).tolist() == pytest.approx(odds.tolist(), rel=1e-9)
