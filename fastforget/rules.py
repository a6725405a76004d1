"""The two one-shot rules: which direction to move the parameters in, and how far, from the codes alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastforget.batch import Inputs
from fastforget.errors import ForgettingError
from fastforget.fisher import FisherDiagonal
from fastforget.selection import count
from fastforget.staging import DenseStage, SparseStage, Stage

__all__ = ["CodeBatch", "Step", "natural", "paper"]

_TINY = 1e-16  # both Fisher sums start here, so that a ratio of two zeros is one


@dataclass(frozen=True)
class CodeBatch:
    """The codes as one batch.

    Attributes:
        inputs: What the model takes.
        labels: Class of each code, int64 [N].
        forget: Whether a code belongs to a class to forget, bool [N].
    """

    inputs: Inputs
    labels: Tensor
    forget: Tensor

    @property
    def groups(self) -> Tensor:
        """Per-sample weights of the two groups forget and remain, [2, N]."""
        return torch.stack([self.forget, ~self.forget]).float()


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


def log_odds(logits: Tensor, labels: Tensor) -> Tensor:
    """Return ``log(p / (1 - p))`` of each sample's own class, [N], without cancellation near p = 1."""
    own = logits.gather(1, labels[:, None]).squeeze(1)
    others = logits.scatter(1, labels[:, None], -math.inf)
    return own - others.logsumexp(1)


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
    kappa: float,
    spill: float,
) -> Step:
    r"""Natural-gradient ascent on the most sensitive parameters, its length read off the codes.

    ::

        delta_i = mask_i g_CF,i / (f_CR,i + eps)      eps = 0.1 mean_i f_CR,i
        mask = the share rho of all parameters with the largest f_CF,i / f_CR,i
        w <- w + alpha delta                           alpha = sqrt(kappa alpha_flip alpha_spill)

    where g_CF is the mean gradient of the forget codes' loss, alpha_flip the smallest step at which every forget
    code's own probability is below one half, and alpha_spill the smallest at which the remaining codes have lost
    ``spill`` nats of log-odds on average. The first says how far the codes are, the second how far the rest of
    the network tolerates; their geometric mean is the step.

    Args:
        model: The eager module.
        parameters: The parameters that move.
        fisher: Fisher and gradient of the groups forget and remain.
        codes: The codes.
        rho: Share of the parameters that moves, (0, 1].
        kappa: Steps of alpha_flip; above 1 because an image is further away than a code.
        spill: Tolerated mean loss of log-odds of the remaining codes, nats.

    Returns:
        The staged step.

    Raises:
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
    before = log_odds(stage.outputs(codes.inputs), codes.labels)
    probe = _Probe(stage, codes, before)
    flip = probe.smallest(lambda odds: bool((odds[codes.forget] < 0).all()), stage.unit())
    remain = ~codes.forget
    spilled = probe.smallest(lambda odds: float((before - odds)[remain].mean()) >= spill, flip)
    alpha = math.sqrt(kappa * flip * spilled)
    stage.step(alpha)
    return Step(stage, alpha, lambda factor: stage.step(alpha * factor))


@dataclass
class _Probe:
    """Looks for the step at which something happens to the codes, by forward passes of the codes only."""

    stage: SparseStage
    codes: CodeBatch
    before: Tensor

    def smallest(self, happened: Callable[[Tensor], bool], start: float) -> float:
        """Bracket from ``start`` by factors of four, then halve the bracket's logarithm to 2 %."""
        low = high = start
        if self._test(happened, start):
            while self._test(happened, low := low / 4):
                if low < start * 4.0**-20:
                    raise ForgettingError("no step is small enough: the codes are not stable under the smallest change")
                high = low
        else:
            while not self._test(happened, high := high * 4):
                if high > start * 4.0**20:
                    raise ForgettingError("no step along this direction makes the codes forgotten")
                low = high
        while high / low > 1.02:
            middle = math.sqrt(low * high)
            low, high = (low, middle) if self._test(happened, middle) else (middle, high)
        return high

    def _test(self, happened: Callable[[Tensor], bool], alpha: float) -> bool:
        self.stage.step(alpha)
        odds = log_odds(self.stage.outputs(self.codes.inputs), self.codes.labels)
        # a step that leaves the finite range is far beyond any that matters
        return happened(odds.nan_to_num(nan=-math.inf))


def cross_entropy_of(logits: Tensor, codes: CodeBatch) -> tuple[float, float]:
    """Return the mean cross-entropy of the forget codes and of the remaining codes."""
    losses = F.cross_entropy(logits.double(), codes.labels, reduction="none")
    return float(losses[codes.forget].mean()), float(losses[~codes.forget].mean())
