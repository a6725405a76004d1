"""RMIA is what its definition says, and finds members."""

import pytest
import torch
from asserts import assert_close
from auditing.subjects import TEST, random_predictions, retrained
from learners import FORGET, REMAIN, learner

from fastforget.auditing import audit
from fastforget.auditing.reference_attack import log_ratios, robust_ratios
from fastforget.classifier.predictions import Predictions


@pytest.mark.parametrize("shadows", [1, 3])
def test_against_the_definition(shadows: int) -> None:
    seen = random_predictions(40, 0)
    others = [Predictions(random_predictions(40, 1 + n).logits, seen.targets) for n in range(shadows)]

    def ratio(row: int) -> float:
        target = int(seen.targets[row])
        expected = sum(float(other.p[row, target]) for other in others) / shadows
        return float(seen.p[row, target]) / (0.5 * (1.3 * expected + 0.7))

    ratios = [ratio(row) for row in range(40)]
    assert log_ratios(seen, others).exp().tolist() == pytest.approx(ratios)
    expected = torch.tensor([sum(own >= 2 * z for z in ratios[20:]) / 20 for own in ratios[:20]], dtype=torch.float64)
    part = Predictions(seen.logits[:20], seen.targets[:20])
    beside = [Predictions(other.logits[:20], other.targets[:20]) for other in others]
    assert_close(robust_ratios(part, beside, log_ratios(seen, others)[20:]), expected, 1e-12)


def test_one_reference_model_is_enough() -> None:
    found = audit(learner(), FORGET, REMAIN, TEST, shadows=[retrained(1)], retrained=retrained()).metrics
    assert "attack: likelihood ratio" not in found
    attack = found["attack: RMIA"]
    assert attack.value is not None
    assert attack.retrained is not None
    assert attack.value > 0.7
    assert abs(attack.retrained - 0.5) < 0.1
    assert found["TPR at 1 % FPR: RMIA"].value > found["TPR at 1 % FPR: RMIA"].retrained  # type: ignore[operator]
