"""Twins: each sample is matched with the unseen one of the same rank in its class."""

import math

import pytest
import torch
from torch import Tensor, nn

from fastforget.classifier.losses import log_odds
from fastforget.classifier.predictions import Predictions
from fastforget.sample_forgetting.twins import MatchedSamples, twin_logits


def seen(odds: list[float], labels: list[int]) -> Predictions:
    """Logits of three classes in which a sample's own has these log-odds; the next class is the second most likely."""
    targets, wanted = torch.tensor(labels), torch.tensor(odds, dtype=torch.float64)
    logits = torch.full((len(odds), 3), math.log(0.2), dtype=torch.float64)
    logits.scatter_(1, (targets[:, None] + 1) % 3, math.log(0.8))
    logits.scatter_(1, targets[:, None], wanted[:, None])
    return Predictions(logits + torch.arange(len(odds))[:, None], targets)


def odds_of(twins: Tensor, of: Predictions) -> list[float]:
    return [round(value, 9) for value in log_odds(twins, of.targets).tolist()]


def test_ranks_are_matched_within_a_class() -> None:
    mine = seen([9, 7, 8, 5, 6], [0, 0, 0, 1, 1])
    others = seen([1, -3, 2, 50, 40, 0], [0, 0, 0, 1, 1, 2])
    assert odds_of(twin_logits(mine, others, {0, 1, 2}), mine) == [2, -3, 1, 40, 50]


@pytest.mark.parametrize(("count", "expected"), [(1, [0, 0, 0, 0]), (2, [0, 0, 1, 1]), (8, [1, 3, 5, 7])])
def test_other_numbers_of_unseen_samples(count: int, expected: list[float]) -> None:
    """Ranks are shares: the middle of each quarter."""
    mine = seen([6, 7, 8, 9], [1, 1, 1, 1])
    others = seen(list(map(float, range(count))), [1] * count)
    assert odds_of(twin_logits(mine, others, {1}), mine) == expected


def test_a_class_that_does_not_remain_is_excluded() -> None:
    mine, others = seen([9, 7, 8], [0, 0, 1]), seen([1, 2], [1, 1])
    for unseen in (others, None):
        twins = twin_logits(mine, unseen, {1, 2} if unseen else {2})
        assert odds_of(twins, mine)[:2] == [-30, -30]
        assert torch.equal(twins[:2, 1:], mine.logits[:2, 1:])


def test_a_class_without_unseen_samples() -> None:
    mine = seen([9, 7], [0, 1])
    for others in (None, seen([1], [1])):
        with pytest.raises(ValueError, match=r"^`unseen` must hold samples of every class .* got none of 0$"):
            twin_logits(mine, others, {0, 1})


class Keyed(nn.Module):
    """Its inputs are its logits."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(1, dtype=torch.float64))

    def forward(self, *, x: Tensor, sign: int) -> Tensor:
        return self.one * sign * x


def matched() -> tuple[MatchedSamples, Predictions]:
    mine, others = seen([4, 3, 2, 8], [0, 0, 1, 2]), seen([3, -1, 2], [0, 0, 1])
    unseen = [({"x": others.logits, "sign": 1}, others.targets)]
    first, second = (({"x": x, "sign": 1}, y) for x, y in zip(mine.logits.split(3), mine.targets.split(3), strict=True))
    return MatchedSamples.match(Keyed(), [first, second], {0, 1}, unseen), mine


def test_goals_give_the_rest_to_the_second_choice() -> None:
    found, mine = matched()
    goals = found.samples.goals
    assert goals is not None
    own = torch.tensor([3.0, -1.0, 2.0, -30.0], dtype=torch.float64).sigmoid()
    assert torch.allclose(goals.gather(1, mine.targets[:, None])[:, 0], own, rtol=1e-12)
    assert torch.allclose(goals.gather(1, (mine.targets[:, None] + 1) % 3)[:, 0], 1 - own, rtol=1e-12)
    assert torch.allclose(goals.sum(1), torch.ones(4, dtype=torch.float64), rtol=1e-12)


def test_what_has_farther_to_go_is_drawn_more_often() -> None:
    found, mine = matched()
    assert torch.allclose(found.distances, torch.tensor([1.0, 4.0, 0.05, 38.0], dtype=torch.float64))
    generator, counts = torch.Generator().manual_seed(0), torch.zeros(4)
    for _ in range(2000):
        drawn = found.draw(1, generator)
        row = int((mine.logits == drawn.inputs["x"]).all(1).nonzero())  # type: ignore[index, call-overload]
        assert drawn.targets.item() == mine.targets[row]
        counts[row] += 1
    share = found.distances / found.distances.sum()
    assert torch.all((counts / 2000 - share).abs() < 5 * (share / 2000).sqrt() + 1e-3)


def test_none_is_drawn_twice_at_a_time() -> None:
    found, _ = matched()
    for size in (3, 4, 9):
        drawn = found.draw(size, torch.Generator().manual_seed(size))
        assert drawn.inputs["sign"] == 1  # type: ignore[index, call-overload]
        assert len(drawn.inputs["x"].unique(dim=0)) == min(size, 4)  # type: ignore[index, call-overload]
        assert drawn.twins is not None
        assert len(drawn.twins) == len(drawn.targets) == min(size, 4)
