"""Attacks, distances and relearning give the answers that are known for hand-made predictions."""

import copy
import math

import pytest
import torch
from asserts import assert_close
from auditing.subjects import predictions_of, random_predictions, retrained
from known_codes import edits_values_only
from learners import (
    CLASS,
    CLASSES,
    REST,
    learner,
)
from scipy.spatial.distance import jensenshannon
from sklearn.metrics import log_loss, roc_auc_score, roc_curve
from torch import Tensor

from fastforget.auditing.attacks import SCORES, Area, caught_share, likelihood_ratio
from fastforget.auditing.distances import activation_distance, agreement, divergence
from fastforget.auditing.relearning import again_curve, relearning_curve, steps_to
from fastforget.classifier.predictions import Predictions, collect_predictions


def test_what_is_read_off_the_logits() -> None:
    seen = predictions_of([[0.7, 0.2, 0.1], [0.25, 0.25, 0.5], [0.1, 0.9, 0.0]], [0, 1, 0])
    assert seen.accuracy == pytest.approx(1 / 3)
    assert seen.losses.tolist() == pytest.approx([-math.log(0.7), -math.log(0.25), -math.log(0.1)])
    assert seen.confidences.tolist() == pytest.approx([0.7, 0.5, 0.9])
    expected = [-sum(p * math.log(p) for p in row if p) for row in ([0.7, 0.2, 0.1], [0.25, 0.25, 0.5], [0.1, 0.9])]
    assert seen.entropies.tolist() == pytest.approx(expected)
    assert seen.odds.tolist() == pytest.approx([math.log(7 / 3), math.log(1 / 3), math.log(1 / 9)])
    first = -0.3 * math.log(0.7) - 0.2 * math.log(0.8) - 0.1 * math.log(0.9)
    assert seen.modified_entropies[0].item() == pytest.approx(first)
    assert seen.modified_entropies[2].item() == pytest.approx(-0.9 * math.log(0.1) - 0.9 * math.log(0.1))
    assert seen.per_class() == [0.5, 0.0, None]
    assert seen.of_classes([1]).targets.tolist() == [1]


def test_modified_entropy_is_finite_where_entropy_is_zero() -> None:
    sure = Predictions(torch.tensor([[800.0, 0.0], [800.0, 0.0]], dtype=torch.float64), torch.tensor([0, 1]))
    right, wrong = sure.modified_entropies.tolist()
    assert right == pytest.approx(0, abs=1e-200)
    assert 1000 < wrong < math.inf


def test_against_other_libraries() -> None:
    one, other = random_predictions(500, 0), random_predictions(500, 1)
    other = Predictions(other.logits, one.targets)
    assert one.losses.mean().item() == pytest.approx(log_loss(one.targets, one.p, labels=range(CLASSES)))
    pairs = zip(one.p.numpy(), other.p.numpy(), strict=True)
    expected = sum(jensenshannon(p, q, base=2) ** 2 for p, q in pairs) / 500
    assert divergence(one, other) == pytest.approx(expected)
    labels = [1] * 300 + [0] * 200
    same = torch.zeros_like(one.targets)  # areas are computed class by class, so all are of one
    parts = Predictions(one.logits[:300], same[:300]), Predictions(one.logits[300:], same[300:])
    for score in SCORES.values():
        values = torch.cat([score(part) for part in parts])
        assert Area.of(score, *parts).value == pytest.approx(roc_auc_score(labels, values))


def test_distances_of_equal_and_of_opposite_predictions() -> None:
    one, other = predictions_of([[1.0, 0.0], [1.0, 0.0]], [0, 0]), predictions_of([[0.0, 1.0], [1.0, 0.0]], [0, 0])
    assert (divergence(one, one), activation_distance(one, one), agreement(one, one)) == (0, 0, 1)
    assert divergence(one, other) == pytest.approx(0.5)
    assert activation_distance(one, other) == pytest.approx(math.sqrt(2) / 2)
    assert agreement(one, other) == 0.5


def test_the_error_of_an_area_is_that_of_chance() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(40) % 2

    def noise() -> Predictions:
        return Predictions(torch.randn(40, 2, generator=generator, dtype=torch.float64), labels)

    areas = [Area.of(lambda seen: seen.logits[:, 0], noise(), noise()) for _ in range(2000)]
    found = torch.tensor([area.value for area in areas])
    assert found.std().item() == pytest.approx(areas[0].error, rel=0.06)
    assert found.mean().item() == pytest.approx(0.5, abs=0.005)


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("rounded", [False, True])
def test_the_share_that_is_caught(rate: float, rounded: bool) -> None:
    """The true-positive rate is the largest of the curve's at no more false positives, ties included."""
    scores = torch.randn(300, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scores = (scores.round(decimals=1) if rounded else scores) + 0.5 * (torch.arange(300) < 100)
    parts = [
        Predictions(torch.stack([s, -s], 1), torch.zeros(len(s), dtype=torch.int64)) for s in scores.split([100, 200])
    ]
    alarms, caught, _ = roc_curve([1] * 100 + [0] * 200, scores, drop_intermediate=False)
    assert caught_share(lambda seen: seen.logits[:, 0], parts[0], parts[1], rate) == caught[alarms <= rate].max()


def test_classes_that_are_unseen_more_often_do_not_count_more() -> None:
    """Of class 0 there is one unseen sample, of class 1 a hundred; of those to forget, half are of each."""
    forget = Predictions(torch.tensor([[5.0, 0.0], [1.0, 0.0]]).double(), torch.tensor([0, 1]))
    easy = torch.tensor([[6.0, 0.0]] + [[0.0, 0.0]] * 100).double()
    unseen = Predictions(easy, torch.tensor([0] + [1] * 100))

    def caught(rate: float) -> float:
        return caught_share(lambda seen: seen.logits[:, 0], forget, unseen, rate)

    assert [caught(0.4), caught(0.5)] == [0, 1]


@pytest.mark.parametrize("shadows", [2, 8])
def test_likelihood_ratio(shadows: int) -> None:
    """The shadow models have log-odds of known mean and deviation for each sample."""
    generator = torch.Generator().manual_seed(0)
    centre = torch.randn(300, generator=generator, dtype=torch.float64)

    def at(odds: Tensor) -> Predictions:
        return Predictions(torch.stack([odds, torch.zeros_like(odds)], 1), torch.zeros(300, dtype=torch.int64))

    around = torch.randn(shadows, 300, generator=generator, dtype=torch.float64)
    around = (around - around.mean(0)) / (around.std(0) if shadows >= 8 else 1)
    found = likelihood_ratio(at(centre + 2), [at(centre + 0.5 * row) for row in around])
    deviation = 0.5 if shadows >= 8 else 0.5 * (around.square().sum() / (300 * (shadows - 1))).sqrt().item()
    assert_close(found, torch.full((300,), 2 / deviation, dtype=torch.float64), 1e-9)


def test_relearning() -> None:
    assert steps_to([0.1, 0.5, 0.9, 0.8], 0.9) == 2
    assert steps_to([0.1, 0.5], 0.9) == 2
    assert steps_to([0.9], 0.9) == 0
    model = learner()
    with edits_values_only(model):
        curve = relearning_curve(model, CLASS, steps=5)
    assert len(curve) == 6
    assert curve[0] == collect_predictions(model, CLASS, "forget").accuracy


def test_learning_all_classes_again_is_plain_sgd() -> None:
    """Batches of any size are one step together, and offsets are a bias that does not move."""
    model, few = learner(), [*CLASS[:1], *REST[:2]]
    offsets = torch.tensor([0.0, 0.0, -20.0, 0.0])
    expected = copy.deepcopy(model)
    optimizer = torch.optim.SGD(expected.parameters(), 0.01, momentum=0.9)
    x, y = (torch.cat(part) for part in zip(*few, strict=True))
    curve = []
    for step in range(8):
        with torch.no_grad():
            found = [(expected(inputs) + offsets).argmax(1) == targets for inputs, targets in CLASS]
        if step in (0, 3, 7):
            curve.append((step, float(torch.cat(found).double().mean())))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(expected(x) + offsets, y).backward()
        optimizer.step()
    with edits_values_only(model):
        assert again_curve(model, few, CLASS, offsets.double(), (0, 3, 7)) == curve
    assert again_curve(model, few, CLASS, None, (0,))[0][1] > curve[0][1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_of_half_precision_learn_again(dtype: torch.dtype) -> None:
    model = retrained().to(dtype)
    half = [(x.to(dtype), (y + 1) % CLASSES) for x, y in CLASS]  # wrong labels, which the model does not know
    found = relearning_curve(model, half, steps=60)
    assert found == relearning_curve(copy.deepcopy(model).float(), [(x.float(), y) for x, y in half], steps=60)
    assert found[0] < 0.5 < found[-1]


def test_learning_that_runs_away_brings_nothing_back() -> None:
    model = learner()
    with torch.no_grad():
        model[4].weight[2].mul_(-1e18)
    curve = again_curve(model, [*CLASS, *REST], CLASS, None, (0, 5))
    assert curve[1] == (5, 0)
