"""The length of a step along one direction, read off the codes by running them forward."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import NamedTuple

from torch import Tensor

from fastforget.class_forgetting.code_batch import CodeBatch
from fastforget.class_forgetting.settings import NaturalSettings
from fastforget.class_forgetting.stage import Stage, Step
from fastforget.classifier.devices import read_values
from fastforget.classifier.losses import log_odds
from fastforget.errors import ForgettingError

__all__ = ["first_step_to_depth", "take_step"]

_NARROWINGS, _TOLERANCE = 40, 0.1
_LEAST_GROWTH, _LARGEST_GROWTH = 1.02, 3.0  # of the step while it is searched for
_BROKEN = 1e4  # nats, beside twice as many as the codes had before the step
_SHORTENINGS, _SHORTER = 59, 0.8
_FAR = 8  # shortenings at once, where a loss is not finite


class Trial(NamedTuple):
    """A length that was tried, and how many nats the codes of the least forgotten class ended short of the depth."""

    length: float
    excess: float


def take_step(stage: Stage, slope: Tensor, codes: CodeBatch, settings: NaturalSettings, *, loss_scale: float) -> Step:
    """Take the step along one direction that `take_natural_step` describes.

    Args:
        stage: The direction.
        slope: Of the loss of the codes to forget, with the scale of `CodeBatch.log_scales`, per unit step, []. With
            that scale it is how fast their log-odds fall, on average with the weights 1 - p, in nats.
        codes: The codes; those to forget suffice, but then nothing is known of the others.
        settings: ``depth``, ``spill`` and ``reach`` of the natural rule.
        loss_scale: What to divide the length by, see `Ratios.loss_scale`.

    Returns:
        The step.

    Raises:
        ForgettingError: The direction leads nowhere, or the codes are forgotten already.
    """
    to_forget = codes.to_forget
    (fall,), (odds,) = read_values(slope, to_forget.largest_class_mean(to_forget.log_odds))
    _check_fall(fall)
    alone = not codes.remain_rows
    depth, reach = settings.depth, settings.reach
    try:
        length = first_step_to_depth(stage, to_forget, odds, fall, depth, reach)
    except ForgettingError:
        if odds <= -depth:
            raise
        # The codes do not get there. Where remaining codes hold the step back, it goes as far as it may; otherwise no
        # further than the slope promised.
        length = (min(reach, 1.0) if alone else reach) * (odds + depth) / fall
        stage.move(length)
    if not alone:
        length = _shorten_to_spill(stage, codes, length, settings.spill)
    return Step(stage, length, loss_scale)


def first_step_to_depth(stage: Stage, codes: CodeBatch, odds: float, fall: float, depth: float, reach: float) -> float:
    """Take the first step at which every class to forget has mean log-odds of ``-depth``, to a tenth of a nat if near.

    The search comes from below: far beyond the first such step the network is broken, and anything may be true.

    Args:
        stage: The direction.
        codes: The codes to forget.
        odds: Their mean log-odds without a step, of the class that is least forgotten.
        fall: How fast the log-odds of the codes to forget fall with the step, to first order.
        depth: Nats.
        reach: The longest step, in units of the one that would be needed to first order.

    Returns:
        The length of the step.

    Raises:
        ForgettingError: The codes are that deep without a step, or no step within reach makes them so.
    """
    broken = max(_BROKEN, 2 * (odds + depth))

    def bounded(excess: float) -> float:
        # A step that leaves the finite range, or comes near to it, is far beyond any that matters.
        return min(excess, broken) if excess > -broken else -math.inf

    def attempt(length: float) -> Trial:
        stage.move(length)
        outputs = stage.outputs(codes.inputs)
        return Trial(length, bounded(float(codes.largest_class_mean(log_odds(outputs, codes.labels))) + depth))

    last = Trial(0.0, bounded(odds + depth))
    length = last.excess / fall
    longest = reach * length
    while last.excess > 0:
        trial = attempt(min(length, longest))
        if trial.excess <= _TOLERANCE:
            trial = _narrow(attempt, last, trial)
            if math.isfinite(trial.excess):
                return trial.length
            break
        if trial.length >= longest:
            break
        last, length = trial, _next_length(last, trial)
    raise ForgettingError(
        "no step along this direction makes the codes forgotten, another `rho` might; the model is unchanged"
    )


def _shorten_to_spill(stage: Stage, codes: CodeBatch, length: float, spill: float) -> float:
    """Shorten a step, by a fifth at a time, until no remaining code loses more than ``spill`` nats of its log-odds.

    While the code that lost most still loses too much, the others need not be run; nor is every length tried, as what
    a code loses grows with the step.

    Args:
        stage: The direction, with the step taken.
        codes: The codes.
        length: Of the step.
        spill: Nats.

    Returns:
        The length of the step that is taken now; 0 if even the shortest loses more.
    """
    lengths = list(accumulate(range(_SHORTENINGS), lambda longer, _: longer * _SHORTER, initial=length))
    place: int | None = 0
    while place is not None:
        # The output layer is fitted to all codes next.
        most, code = codes.log_odds_lost(stage.outputs(codes.inputs, examine=True)).max(0)
        if float(most) <= spill:
            return lengths[place]
        worst = codes.with_one_remaining(int(code))
        place = _first_sparing(stage, worst, lengths, (place, float(most)), spill)
    stage.move(0.0)
    return 0.0


def _first_sparing(
    stage: Stage, codes: CodeBatch, lengths: Sequence[float], tried: tuple[int, float], spill: float
) -> int | None:
    """Take the longest of some steps at which no remaining code loses more than ``spill`` nats.

    Args:
        stage: The direction.
        codes: The codes.
        lengths: The steps, from the longest on.
        tried: The place of one that costs too much, and what it costs, nats.
        spill: Nats.

    Returns:
        The place of the step that is taken now; None if even the shortest costs more.
    """
    (too_long, cost), short_enough, taken = tried, len(lengths), tried[0]
    stride = 1.0
    while short_enough - too_long > 1:
        if short_enough < len(lengths):
            taken = (too_long + short_enough) // 2
        else:
            # As far as is needed if the loss grows with the square of the length, and further each time it was not.
            ahead = math.log(cost / spill) / (-2 * math.log(_SHORTER)) if cost < math.inf else _FAR
            taken = min(too_long + max(1, round(stride * ahead)), len(lengths) - 1)
        stage.move(lengths[taken])
        found = float(codes.log_odds_lost(stage.outputs(codes.inputs)).max())
        if found <= spill:
            short_enough = taken
        else:
            stride, too_long, cost = stride * 1.5, taken, found
    if short_enough == len(lengths):
        return None
    if taken != short_enough:
        stage.move(lengths[short_enough])
    return short_enough


def _next_length(last_but_one: Trial, last: Trial) -> float:
    """Return the next length to try: where the line through the last two trials reaches the depth.

    The log-odds fall ever more slowly at first. Before a second trial has shown how slowly, the slope ahead is taken to
    be flatter than that behind by as much as this is than the one at the start. The least and the largest growth keep
    the search going, and from below.

    Args:
        last_but_one: The last trial but one, or the start, of length 0.
        last: The last trial.

    Returns:
        The length.
    """
    fall = last_but_one.excess - last.excess
    if fall <= 0:
        return _LARGEST_GROWTH * last.length
    further = (last.length - last_but_one.length) * (last.excess / fall)
    if last_but_one.length == 0:
        further *= last_but_one.excess / fall
    return min(max(last.length + further, _LEAST_GROWTH * last.length), _LARGEST_GROWTH * last.length)


def _check_fall(fall: float) -> None:
    """Raise ForgettingError unless a direction makes the log-odds of the codes to forget fall."""
    if not 0 < fall < math.inf:
        raise ForgettingError(
            "the loss of the codes to forget must depend on the parameters that may move, but its gradient is zero "
            "or infinite; the model is unchanged"
        )


def _narrow(attempt: Callable[[float], Trial], short: Trial, deep: Trial) -> Trial:
    """Narrow a bracket around the depth by regula falsi, with the Illinois weights that keep both ends moving.

    What a trial lacks or exceeds counts by its inverse hyperbolic sine, which grows as a logarithm does: far beyond the
    depth log-odds fall by hundreds of nats, which tell little of where it is.

    Args:
        attempt: Tries a length; called last with what is returned.
        short: A trial that ends short of the depth.
        deep: The last trial, which ends at most the tolerance short of it.

    Returns:
        A trial within the tolerance of the depth, unless the log-odds jump there.
    """
    if abs(deep.excess) <= _TOLERANCE:
        return deep
    (low, at_low), (high, at_high) = ((trial.length, math.asinh(trial.excess)) for trial in (short, deep))
    moved_last = ""
    for _ in range(_NARROWINGS):
        trial = attempt(low + (high - low) * (at_low / (at_low - at_high) if math.isfinite(at_high) else 0.5))
        if abs(trial.excess) <= _TOLERANCE:
            return trial
        if trial.excess > 0:
            low, at_low = trial.length, math.asinh(trial.excess)
            if moved_last == "low":
                at_high /= 2
            moved_last = "low"
        else:
            high, at_high = trial.length, math.asinh(trial.excess)
            if moved_last == "high":
                at_low /= 2
            moved_last = "high"
    return attempt(high)
