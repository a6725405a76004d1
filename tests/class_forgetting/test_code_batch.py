"""The codes as one batch: what is read off their log-odds."""

import math

import pytest
import torch

from fastforget.class_forgetting.code_batch import CodeBatch, inverse_doubts
from fastforget.classifier.losses import log_odds

LABELS = torch.tensor([0, 0, 1, 1, 2, 2])
CODES = CodeBatch(
    torch.arange(6.0)[:, None], LABELS, torch.arange(6.0), class_rows=((0, 1), (2, 3)), log_scales=(3.0, 4.0)
)


def test_least_forgotten_is_the_mean_of_the_worst_class() -> None:
    logits = torch.zeros(6, 3)
    logits[range(6), LABELS] = torch.tensor([4.0, -6.0, -9.0, 3.0, 50.0, 50.0])
    expected = torch.tensor([-1.0, -3.0]) - math.log(2)
    assert float(CODES.largest_class_mean(log_odds(logits, LABELS))) == pytest.approx(expected.max().item())
    logits[2] = math.nan
    assert math.isnan(CODES.largest_class_mean(log_odds(logits, LABELS)))
    assert not CODES.beyond_boundary(logits)


def test_the_two_groups() -> None:
    assert (CODES.forget_rows, CODES.remain_rows) == ([0, 1, 2, 3], [4, 5])
    assert CODES.group_weights.tolist() == [[1, 1, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1]]
    assert CODES.take_forget(LABELS).tolist() == [0, 0, 1, 1]
    assert CODES.take_remain(LABELS).tolist() == [2, 2]


def test_fewer_codes_know_their_classes_and_the_scale() -> None:
    to_forget, narrow = CODES.to_forget, CODES.with_one_remaining(1)
    assert (to_forget.labels.tolist(), to_forget.class_rows) == ([0, 0, 1, 1], ((0, 1), (2, 3)))
    assert to_forget.to_forget is to_forget
    assert (narrow.labels.tolist(), narrow.class_rows) == ([0, 1, 2], ((0,), (1,)))
    assert narrow.log_odds.tolist() == [0.0, 2.0, 5.0]
    assert {batch.log_scales for batch in (CODES, to_forget, narrow)} == {(3.0, 4.0)}


def test_what_the_remaining_codes_lost_leaves_the_classes_to_forget_out() -> None:
    logits = torch.zeros(6, 4)
    logits[:, 0] = 100.0  # a class to forget: no matter
    logits[4:, 2] = torch.tensor([3.0, math.nan])
    assert CODES.log_odds_lost(logits).tolist() == [pytest.approx(4 - 3), math.inf]


def test_one_class_after_the_other() -> None:
    first, second = CODES.of_one_class(0), CODES.of_one_class(1)
    assert (first.labels.tolist(), first.class_rows) == ([0, 0, 1, 1, 2, 2], ((0, 1),))
    assert (second.labels.tolist(), second.class_rows) == ([1, 1, 2, 2], ((0, 1),))


def test_scales_are_the_inverse_of_the_mean_doubt_of_each_group() -> None:
    odds, groups = torch.tensor([2.0, 4.0, -1.0, 9.0]), torch.tensor([[1, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]])
    expected = [-math.log((1 / (1 + math.exp(2)) + 1 / (1 + math.exp(4))) / 2), math.log1p(math.exp(9)), 0]
    assert inverse_doubts(odds, groups).tolist() == pytest.approx(expected)
    assert inverse_doubts(odds + 1e5, groups).tolist() == pytest.approx(
        [1e5 + 2 + math.log(2 / (1 + math.exp(-2))), 1e5 + 9, 0]
    )


def test_the_scales_follow_what_a_changed_model_says() -> None:
    logits = torch.zeros(6, 3)
    logits[range(6), LABELS] = torch.tensor([1.0, 1.0, 1.0, 1.0, 5.0, 5.0])
    again = CODES.examined_again(logits)
    assert again.log_scales == pytest.approx((math.log(1 + math.e / 2), math.log(1 + math.exp(5) / 2)))
    assert again.log_odds.tolist() == pytest.approx([1 - math.log(2)] * 4 + [5 - math.log(2)] * 2)
    assert again.logits is logits
