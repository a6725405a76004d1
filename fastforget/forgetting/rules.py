"""The two one-shot rules: which direction to move the parameters in, and how far, from the codes alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastforget import ops
from fastforget.errors import ForgettingError
from fastforget.forgetting.code_batch import CodeBatch, at_least_some, mean_doubt
from fastforget.forgetting.sensitivity import Sensitivity
from fastforget.forgetting.staging import DenseStage, SparseStage, Stage
from fastforget.losses import log_odds
from fastforget.selection import count
from fastforget.waiting import read

__all__ = ["Step", "along", "natural", "paper"]

_NARROWINGS, _TOLERANCE = 40, 0.1
_LEAST, _LARGEST = 1.05, 3.0  # growth of the step while it is searched for
_BROKEN = 1e4  # nats
_SHORTENINGS, _SHORTER = 60, 0.8
_WORTHWHILE = 1.0  # nats for which more parameters may move


@dataclass
class Step:
    """A staged change.

    Attributes:
        stage: The parameters with the step taken.
        alpha: Its size.
        retake: Takes the same step scaled by a factor, for backing off.
    """

    stage: Stage
    alpha: float
    retake: Callable[[float], None]


def paper(
    model: nn.Module,
    parameters: dict[str, Tensor],
    fisher: Sensitivity,
    codes: CodeBatch,
    *,
    lambda1: float,
    lambda2: float,
) -> Step:
    r"""The published rule: every parameter moves by its sensitivity ratio, all in one direction.

    ::

        eta_i = f_CF,i / f_CR,i        alpha_l = min(lambda1, lambda2 / max_{i in l} eta_i)
        w_i  <- w_i ± alpha_l eta_i

    Both signs are tried on the codes; the one with the larger sum of accuracy on the remaining codes and error
    on the forgotten ones is kept, minus on a tie.

    Source: Yamashita, Yamada, Shibata, "One-shot machine unlearning with mnemonic code", ACML 2024, Eq. 5-7; the
    square is inside the mean, as in Eq. 5 (their Algorithm 2 differs); stabilised as in the authors' description:
    both Fisher sums start at 1e-16 and the ratio is taken in logarithms.

    Args:
        model: The eager module.
        parameters: The parameters that move.
        fisher: Fisher of the codes to forget and of the others.
        codes: The codes.
        lambda1: Bound on the scale in a tensor without sensitive parameters.
        lambda2: Largest change in a tensor with them.

    Returns:
        The staged step; ``alpha`` is +1 or -1.
    """
    directions = list(fisher.ratios().values())
    (largest,) = read(torch.stack([eta.max() for eta in directions]))
    for eta, most in zip(directions, largest, strict=True):
        eta.mul_(min(lambda1, lambda2 / most))
    stage = DenseStage(model, parameters, directions, codes.batch_size)

    def merit(sign: float) -> float:
        stage.step(sign)
        right = (stage.outputs(codes.inputs).argmax(1) == codes.labels).float()
        return float(codes.outside(right).mean() - codes.inside(right).mean())

    sign = 1.0 if merit(1.0) > merit(-1.0) else -1.0
    if sign > 0:  # minus was tried last
        stage.step(sign)
    return Step(stage, sign, lambda factor: stage.step(sign * factor))


def natural(
    model: nn.Module,
    parameters: dict[str, Tensor],
    fisher: Sensitivity,
    codes: CodeBatch,
    *,
    moving: Collection[str],
    rho: float,
    widen: float,
    depth: float,
    spill: float,
    reach: float,
) -> Step:
    r"""Natural-gradient ascent on the most sensitive parameters, its length read off the codes.

    ::

        delta_i = mask_i g_CF,i / (f_CR,i + eps)      eps = 0.1 mean_i f_CR,i
        mask = the share rho of the moving parameters with the largest f_CF,i / f_CR,i
        w <- w + alpha delta

    where g_CF is the mean gradient of the forget codes' loss. The step alpha is the first at which the codes of every
    class to forget have log-odds of ``-depth`` nats on average, where they had about +7: far enough for the images
    that the codes stand for, which are further from the boundary, and not so far that the rest suffers. It is at most
    ``reach`` times the step that would be needed to first order: where that is not enough, the codes of the class are
    held by something that this direction does not reach, and what a long step does to images, codes do not tell.
    Where a remaining code would lose more than ``spill`` nats by it, the step is shortened until none does; where the
    remaining codes are not run to hold it back, a step that is not enough is no longer than the first order says.

    Where the step ends more than a nat short of ``depth``, ``widen`` times as many parameters are tried, and moved if
    that takes the codes more than a nat deeper: what few parameters cannot do may be spread over more. Not for less,
    since at the same depth of the codes, images are forgotten less by more parameters.

    Args:
        model: The eager module.
        parameters: The parameters that may move.
        fisher: Fisher of the codes to forget and of the others, and the gradient of the former.
        codes: The codes; those to forget suffice, but then nothing is known of the others.
        moving: Names of the parameters that the step is taken on.
        rho: Share of these that moves, (0, 1].
        widen: How many times as many may move where these do not get near to ``depth``.
        depth: How far beyond the decision boundary the forgotten codes end, nats of log-odds.
        spill: How much log-odds a remaining code may lose, nats.
        reach: The longest step, in units of the one that would be needed to first order.

    Returns:
        The staged step, short of ``depth`` where ``reach`` or ``spill`` asks for it and more parameters do not help.

    Raises:
        TypeError: ``fisher`` comes without the gradient.
        ForgettingError: The direction leads nowhere, or the codes are forgotten already.
    """
    ratios = fisher.ratios()
    scores = [ratios[name] for name in moving]
    total = sum(map(torch.numel, scores))

    def attempt(k: int) -> tuple[Step, float]:
        stage, slope = _masked(model, parameters, fisher, scores, moving, k, codes.batch_size)
        step = along(stage, slope, codes, scale=fisher.scale, depth=depth, spill=spill, reach=reach)
        odds = log_odds(stage.outputs(codes.inputs), codes.labels)
        return step, float(codes.least_forgotten(odds).nan_to_num(nan=math.inf))

    few, more = count(float(rho), total), count(min(float(widen * rho), 1.0), total)
    step, odds = attempt(few)
    if odds > _WORTHWHILE - depth and more > few:
        wider, deeper = attempt(more)
        if deeper < odds - _WORTHWHILE:
            return wider
    return step


def _masked(
    model: nn.Module,
    parameters: dict[str, Tensor],
    fisher: Sensitivity,
    scores: Sequence[Tensor],
    moving: Collection[str],
    k: int,
    batch_size: int | None,
) -> tuple[Stage, Tensor]:
    """Stage the direction on the k most sensitive of the moving parameters; also return the slope of the loss on it."""
    indices, counts = ops.select_indices(ops.select(scores, k)[0], scores, k)
    selected, totals = read(counts, fisher.totals(moving))
    sizes = [int(size) for size in selected]
    direction, gradient = fisher.steepest(dict(zip(moving, indices.split(sizes), strict=True)), totals)
    stage = SparseStage(model, parameters, moving, indices, counts, direction, sizes, batch_size)
    return stage, gradient.double() @ direction.double()


def along(
    stage: Stage, slope: Tensor, codes: CodeBatch, *, scale: float, depth: float, spill: float, reach: float
) -> Step:
    """Take the step along one direction that `natural` describes.

    Args:
        stage: The direction.
        slope: Of the loss of the codes to forget, per unit step.
        codes: The codes.
        scale: What the loss was multiplied by.
        depth: As for `natural`.
        spill: As for `natural`.
        reach: As for `natural`.

    Returns:
        The step.

    Raises:
        ForgettingError: The direction leads nowhere, or the codes are forgotten already.
    """
    few = codes.to_forget()
    (rise,), (doubt,), (odds,) = read(slope, mean_doubt(few.odds), few.least_forgotten(few.odds))
    fall = _fall(rise, scale, at_least_some(doubt))
    alone = not len(codes.outside(codes.labels))
    try:
        alpha = _first_step(stage, few, odds, fall, depth, reach)
    except ForgettingError:
        if odds <= -depth:
            raise
        # the codes do not get there: as far as may be if others hold the step back, else what the slope promised
        alpha = (min(reach, 1.0) if alone else reach) * (odds + depth) / fall
        stage.step(alpha)
    if not alone:
        alpha = _within(stage, codes, alpha, spill)
    return Step(stage, alpha / scale, lambda factor: stage.step(alpha * factor))


def _first_step(stage: Stage, codes: CodeBatch, odds: float, fall: float, depth: float, reach: float) -> float:
    """Take the first step at which every forgotten class has mean log-odds of ``-depth``, to a tenth of a nat, if near.

    The search comes from below: far beyond the first such step the network is broken, and anything may be true.

    Args:
        stage: The direction.
        codes: The codes to forget.
        odds: Their mean log-odds without a step, of the class that is least forgotten.
        fall: How fast the log-odds of the forget codes fall with the step, to first order.
        depth: Nats.
        reach: The longest step, in units of the one that would be needed to first order.

    Returns:
        The step.

    Raises:
        ForgettingError: The codes are that deep without a step, or no step within reach makes them so.
    """

    def bounded(odds: float) -> float:
        # a step that leaves the finite range, or comes near to it, is far beyond any that matters
        return min(odds + depth, _BROKEN) if odds + depth > -_BROKEN else -math.inf

    def excess(alpha: float) -> float:
        stage.step(alpha)
        return bounded(float(codes.least_forgotten(log_odds(stage.outputs(codes.inputs), codes.labels))))

    low, above = 0.0, bounded(odds)
    high = above / fall
    longest = reach * high
    while above > 0:
        high = min(high, longest)
        found = excess(high)
        if found <= _TOLERANCE:
            alpha, found = _root(excess, (low, above), (high, found))
            if math.isfinite(found):
                return alpha
            break
        if high >= longest:
            break
        (low, above), high = (high, found), _further((low, above), (high, found))
    raise ForgettingError(
        "no step along this direction makes the codes forgotten, another `rho` might; the model is unchanged"
    )


def _within(stage: Stage, codes: CodeBatch, alpha: float, spill: float) -> float:
    """Shorten a step until no remaining code loses more than ``spill`` nats of its log-odds among what remains.

    While the one that lost most still does, there is no need to run the others.

    Args:
        stage: The direction, with the step taken.
        codes: The codes.
        alpha: The step.
        spill: Nats.

    Returns:
        The step that is taken now; none if even the shortest loses more.
    """
    worst: CodeBatch | None = None
    for _ in range(_SHORTENINGS):
        if worst is None or float(worst.loss_of_others(stage.outputs(worst.inputs))) <= spill:
            most, place = codes.losses_of_others(stage.outputs(codes.inputs)).max(0)
            if float(most) <= spill:
                return alpha
            worst = codes.with_other(int(place))
        alpha *= _SHORTER
        stage.step(alpha)
    stage.step(0.0)
    return 0.0


def _further(nearer: tuple[float, float], last: tuple[float, float]) -> float:
    """Return the next step to try: enough, if the log-odds keep falling with its logarithm as they just did.

    Trained networks come near to that. The least and the largest growth keep the search going, and from below.

    Args:
        nearer: The last step but one, and what was left there.
        last: The last step, and what is left.

    Returns:
        The step.
    """
    (low, at_low), (high, at_high) = nearer, last
    if at_high >= at_low:
        return _LARGEST * high
    rest = min(at_high / (at_low - at_high), 100.0)
    guess = high * (high / low) ** rest if low > 0 else high * (1 + rest)
    return min(max(guess, _LEAST * high), _LARGEST * high)


def _fall(slope: float, scale: float, doubt: float) -> float:
    """How fast the log-odds of the forget codes fall with the step, to first order.

    With loss L = scale log(1 + exp(-odds)) and slope dL/dalpha they fall by slope / (scale (1 - p)) per unit step.

    Args:
        slope: Of the loss of the codes to forget.
        scale: What their loss was multiplied by.
        doubt: Their mean of 1 - p.

    Returns:
        Nats per unit step, positive.

    Raises:
        ForgettingError: The direction leads nowhere.
    """
    fall = slope / (scale * doubt)
    if not 0 < fall < math.inf:
        raise ForgettingError(
            "the loss of the codes to forget must depend on the parameters that may move, but its gradient is zero "
            "or infinite; the model is unchanged"
        )
    return fall


def _root(
    excess: Callable[[float], float], above: tuple[float, float], below: tuple[float, float]
) -> tuple[float, float]:
    """Narrow a bracket by regula falsi, with the Illinois weights that keep both ends moving.

    Args:
        excess: The function; called last with what is returned.
        above: A point and its positive value.
        below: A point, called last, and its value, at most the tolerance.

    Returns:
        A point and its value, which is within the tolerance of zero unless the function jumps there.
    """
    (low, at_low), (high, at_high) = above, below
    if abs(at_high) <= _TOLERANCE:
        return below
    for _ in range(_NARROWINGS):
        middle = low + (high - low) * (at_low / (at_low - at_high) if math.isfinite(at_high) else 0.5)
        value = excess(middle)
        if abs(value) <= _TOLERANCE:
            return middle, value
        if value > 0:
            low, at_low, at_high = middle, value, at_high / 2
        else:
            high, at_high, at_low = middle, value, at_low / 2
    return high, excess(high)
