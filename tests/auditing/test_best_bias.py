"""Offsets of logits bring back a class whose output bias was lowered."""

import pytest
import torch
from asserts import assert_close
from auditing.subjects import random_predictions
from torch import Tensor

from fastforget.auditing.best_bias import best_offsets, old_offsets, shifted, usual_offsets
from fastforget.classifier.predictions import Predictions

CLASSES = 4


def balanced(seen: Predictions) -> float:
    found = [share for share in seen.per_class() if share is not None]
    return sum(found) / len(found)


def offset(cls: int, value: float) -> Tensor:
    return torch.zeros(CLASSES, dtype=torch.float64).index_fill_(0, torch.tensor(cls), value)


@pytest.mark.parametrize("seed", range(5))
def test_no_offset_of_a_grid_is_better(seed: int) -> None:
    seen = random_predictions(80, seed)
    best = balanced(shifted(seen, best_offsets(seen, [2])))
    tried = [balanced(shifted(seen, offset(2, value))) for value in torch.linspace(-30, 30, 2001).tolist()]
    assert best == pytest.approx(max(tried), abs=1e-12)
    assert best > balanced(seen)


def test_several_classes_come_back() -> None:
    targets = torch.arange(40) % CLASSES
    known = Predictions(10 * torch.eye(CLASSES, dtype=torch.float64)[targets], targets)
    hidden = shifted(known, torch.tensor([0.0, -50.0, -300.0, 0.0]))
    assert hidden.accuracy == 0.5
    assert shifted(hidden, best_offsets(hidden, [1, 2])).accuracy == 1
    assert best_offsets(known, [1, 2]).tolist() == [0, 0, 0, 0]


def test_the_middle_of_the_widest_best_interval() -> None:
    """Offsets from 6 to 16 are right for all: the class needs more than 6, the others less than 16."""
    logits = torch.tensor([[-2.0, 4.0, 0.0], [-4.0, 12.0, 0.0], [-4.0, 0.0, 12.0]], dtype=torch.float64)
    seen = Predictions(logits, torch.tensor([0, 1, 2]))
    assert best_offsets(seen, [0]).tolist() == [11, 0, 0]


def test_the_old_bias_is_by_how_much_it_was_lowered() -> None:
    original = random_predictions(60)
    lower = shifted(original, torch.tensor([0.0, -7.5, -90.0, 0.0]))
    assert_close(old_offsets(lower, original, [1, 2]), torch.tensor([0.0, 7.5, 90.0, 0.0]).double(), 1e-12)


def test_logits_up_to_a_constant_of_the_sample() -> None:
    """Softmax does not see what all logits of a sample have in common, and neither do offsets."""
    original = random_predictions(60)
    moved = Predictions(original.logits + torch.randn(60, 1, dtype=torch.float64), original.targets)
    assert_close(old_offsets(moved, original, [1]), torch.zeros(CLASSES).double(), 1e-12)
    for found in (usual_offsets(moved, [1]), usual_offsets(original, [1])):
        assert found is not None
        assert_close(found, usual_offsets(original, [1]), 1e-12)


def test_a_usual_bias_is_the_level_of_the_others() -> None:
    """All classes are alike but for one that is lower, so what is missing is that."""
    targets = torch.arange(40) % CLASSES
    alike = Predictions(6 * torch.eye(CLASSES, dtype=torch.float64)[targets], targets)
    lower = shifted(alike, offset(1, -30))
    found = usual_offsets(lower, [1])
    assert found is not None
    # On samples of another class k, the class is 6 below k and as high as the two others; any of those has one less
    # rival of that height.
    log = torch.tensor(6.0).double().exp()
    assert_close(found, offset(1, 30 + float((log + 2).log() - (log + 1).log())), 1e-12)
    assert shifted(lower, found).accuracy == 1
    assert usual_offsets(alike.of_classes([0, 1]), [1]) is None
