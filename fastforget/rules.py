"""The two one-shot rules: which direction to move the parameters in, and how far, from the codes alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastforget.batch import Inputs
from fastforget.errors import ForgettingError
from fastforget.fisher import FisherDiagonal
from fastforget.losses import log_odds
from fastforget.selection import count
from fastforget.staging import DenseStage, SparseStage, Stage

__all__ = ["CodeBatch", "Step", "natural", "paper"]

_ENLARGEMENTS, _NARROWINGS, _TOLERANCE = 80, 40, 0.1
_BROKEN = 1e4  # nats
_TINY = 1e-16  # both Fisher sums start here, so that a ratio of two zeros is one


@dataclass(frozen=True)
class CodeBatch:
    """The codes as one batch.

    Attributes:
        inputs: What the model takes.
        labels: Class of each code, int64 [N].
        forget: Whether a code belongs to a class to forget, bool [N].
        odds: Log-odds of each code's own class under the model as it is, [N].
        per_class: Codes per class, M.
    """

    inputs: Inputs
    labels: Tensor
    forget: Tensor
    odds: Tensor
    per_class: int = 1

    @property
    def groups(self) -> Tensor:
        """Per-sample weights of the two groups forget and remain, [2, N]."""
        return torch.stack([self.forget, ~self.forget]).float()

    @property
    def scale(self) -> float:
        """What makes the gradients of the loss about as large as those of the log-odds."""
        return 1 / _doubt(self.odds)

    def least_forgotten(self, logits: Tensor) -> float:
        """Return the mean log-odds of the codes of a class to forget, of that class where they are largest."""
        odds = log_odds(logits, self.labels).double()
        means = [odds[self.labels == cls].mean() for cls in self.labels[self.forget].unique()]
        return float(torch.stack(means).max())


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


def _doubt(odds: Tensor) -> float:
    """Mean of 1 - p, positive even where float64 loses it."""
    return max(float(torch.sigmoid(-odds.double()).mean()), 1e-300)


def _log_ratio(fisher: FisherDiagonal) -> dict[str, Tensor]:
    """log(f_CF / f_CR) of every parameter, both sums starting at 1e-16."""
    ratios = {name: (value[0] + _TINY).log() - (value[1] + _TINY).log() for name, value in fisher.items()}
    return {name: value.nan_to_num(nan=0.0) for name, value in ratios.items()}


def paper(
    model: nn.Module,
    parameters: dict[str, Tensor],
    fisher: FisherDiagonal,
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
        fisher: Fisher of the groups forget and remain.
        codes: The codes.
        lambda1: Bound on the scale in a tensor without sensitive parameters.
        lambda2: Largest change in a tensor with them.

    Returns:
        The staged step; ``alpha`` is +1 or -1.
    """
    directions = []
    for log_eta in _log_ratio(fisher).values():
        eta = log_eta.exp().clamp(max=torch.finfo(log_eta.dtype).max)
        directions.append(eta * min(lambda1, lambda2 / float(eta.max())))
    stage = DenseStage(model, parameters, directions)

    def merit(sign: float) -> float:
        stage.step(sign)
        right = stage.outputs(codes.inputs).argmax(1) == codes.labels
        return float(right[~codes.forget].float().mean() - right[codes.forget].float().mean())

    sign = 1.0 if merit(1.0) > merit(-1.0) else -1.0
    stage.step(sign)
    return Step(stage, sign, lambda factor: stage.step(sign * factor))


def natural(
    model: nn.Module,
    parameters: dict[str, Tensor],
    fisher: FisherDiagonal,
    codes: CodeBatch,
    *,
    rho: float,
    depth: float,
) -> Step:
    r"""Natural-gradient ascent on the most sensitive parameters, its length read off the codes.

    ::

        delta_i = mask_i g_CF,i / (f_CR,i + eps)      eps = 0.1 mean_i f_CR,i
        mask = the share rho of all parameters with the largest f_CF,i / f_CR,i
        w <- w + alpha delta

    where g_CF is the mean gradient of the forget codes' loss. The step alpha is the first at which the codes of every
    class to forget have log-odds of ``-depth`` nats on average, where they had about +7: far enough for the images
    that the codes stand for, which are further from the boundary, and not so far that the rest suffers.

    Args:
        model: The eager module.
        parameters: The parameters that move.
        fisher: Fisher and gradient of the groups forget and remain, of ``loss(codes.scale)``.
        codes: The codes.
        rho: Share of the parameters that moves, (0, 1].
        depth: How far beyond the decision boundary the forgotten codes end, nats of log-odds.

    Returns:
        The staged step.

    Raises:
        TypeError: ``fisher`` comes without the gradient.
        ForgettingError: No step makes the codes forgotten.
    """
    if fisher.gradient is None:
        raise TypeError("`fisher` must come with the gradient")
    total = sum(value[1].numel() for value in fisher.values())
    eps = 0.1 * float(sum(value[1].sum(dtype=torch.float64) for value in fisher.values())) / total
    scores = list(_log_ratio(fisher).values())
    gradient = fisher.gradient
    directions = [gradient[name][0] / (value[1] + max(eps, _TINY)) for name, value in fisher.items()]
    stage = SparseStage(model, parameters, directions, scores, count(rho, total))
    alpha = _first_step(stage, codes, _fall(stage, codes, gradient), depth)
    return Step(stage, alpha / codes.scale, lambda factor: stage.step(alpha * factor))


def _first_step(stage: Stage, codes: CodeBatch, fall: float, depth: float) -> float:
    """Take the first step at which every forgotten class has mean log-odds of ``-depth``, to a tenth of a nat.

    The search comes from below: far beyond the first such step the network is broken, and anything may be true.

    Args:
        stage: The direction.
        codes: The codes.
        fall: How fast the log-odds of the forget codes fall with the step, to first order.
        depth: Nats.

    Returns:
        The step.

    Raises:
        ForgettingError: No step makes the codes forgotten.
    """

    def excess(alpha: float) -> float:
        stage.step(alpha)
        value = codes.least_forgotten(stage.outputs(codes.inputs)) + depth
        # a step that leaves the finite range, or comes near to it, is far beyond any that matters
        return min(value, _BROKEN) if value > -_BROKEN else -math.inf

    low, above = 0.0, excess(0.0)
    high = 0.5 * above / fall
    for _ in range(_ENLARGEMENTS if above > 0 else 0):
        below = excess(high)
        if below <= 0:
            alpha = _root(excess, (low, above), (high, below))
            if math.isfinite(excess(alpha)):
                return alpha
            break
        low, above, high = high, below, 1.5 * high
    raise ForgettingError(
        "no step along this direction makes the codes forgotten, another `rho` might; the model is unchanged"
    )


def _fall(stage: SparseStage, codes: CodeBatch, gradient: Mapping[str, Tensor]) -> float:
    """How fast the log-odds of the forget codes fall with the step, to first order.

    With loss L = scale log(1 + exp(-odds)) and slope dL/dalpha they fall by slope / (scale (1 - p)) per unit step.

    Args:
        stage: The direction.
        codes: The codes.
        gradient: Of the loss, for the groups forget and remain.

    Returns:
        Nats per unit step, positive.

    Raises:
        ForgettingError: The direction leads nowhere.
    """
    slope = stage.slope([value[0] for value in gradient.values()])
    fall = slope / (codes.scale * _doubt(codes.odds[codes.forget]))
    if not 0 < fall < math.inf:
        raise ForgettingError(
            "the loss of the codes to forget must depend on the parameters that may move, but its gradient is zero "
            "or infinite; the model is unchanged"
        )
    return fall


def _root(excess: Callable[[float], float], above: tuple[float, float], below: tuple[float, float]) -> float:
    """Narrow a bracket by regula falsi, with the Illinois weights that keep both ends moving."""
    (low, at_low), (high, at_high) = above, below
    for _ in range(_NARROWINGS):
        middle = low + (high - low) * (at_low / (at_low - at_high) if math.isfinite(at_high) else 0.5)
        value = excess(middle)
        if abs(value) <= _TOLERANCE:
            return middle
        if value > 0:
            low, at_low, at_high = middle, value, at_high / 2
        else:
            high, at_high, at_low = middle, value, at_low / 2
    return high
