"""The natural rule: natural-gradient ascent on the most sensitive parameters, from the codes alone."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn

from fastforget import ops
from fastforget.class_forgetting.code_batch import CodeBatch
from fastforget.class_forgetting.sensitivity import Ratios
from fastforget.class_forgetting.settings import NaturalSettings
from fastforget.class_forgetting.stage import SparseStage, Stage, Step
from fastforget.class_forgetting.step_length import take_step
from fastforget.classifier.devices import read_values
from fastforget.classifier.losses import log_odds
from fastforget.functional.topk import selected_count

__all__ = ["take_natural_step"]

_WORTHWHILE = 1.0  # nats for which more parameters may move


def take_natural_step(
    model: nn.Module,
    parameters: dict[str, Tensor],
    ratios: Ratios,
    codes: CodeBatch,
    settings: NaturalSettings,
    *,
    moving: Collection[str],
) -> Step:
    r"""Ascend the loss of the codes to forget on the most sensitive parameters; read the length off the codes.

    ::

        delta_i = mask_i g_CF,i / (f_CR,i + eps)      eps = 0.1 mean_i f_CR,i
        mask = the share rho of the moving parameters with the largest f_CF,i / f_CR,i
        w <- w + alpha delta

    g_CF is the mean gradient of the loss of the codes to forget. Log-odds, log(p / (1 - p)), are those of a code's own
    class; their unit is the nat.

    The step alpha is the first at which the codes of every class to forget have log-odds of ``-depth`` nats on average.
    Before it they had about +7. That is far enough for the images that the codes stand for, which are further from the
    decision boundary, and not so far that the rest suffers.

    Two bounds hold the step back:

    * It is at most ``reach`` times the step that would be needed to first order. Where that is not enough, something
      holds the codes that this direction does not reach, and codes do not tell what a long step does to images. Where
      the remaining codes are not run, such a step is no longer than the first order says.
    * Where a remaining code would lose more than ``spill`` nats, the step is shortened until none does.

    Where the step ends more than a nat short of ``depth``, ``widen`` times as many parameters are tried: what few
    cannot do may be spread over more. They move if that takes the codes more than a nat deeper. Not for less, since at
    the same depth of the codes, images are forgotten less by more parameters.

    Source: ours, see docs/explain/one-shot.md.

    Args:
        model: The eager module.
        parameters: The parameters that are staged.
        ratios: Of the moving parameters, with the gradient.
        codes: The codes; those to forget suffice, but then nothing is known of the others.
        settings: rho, widen, depth, spill and reach.
        moving: Names of the parameters that the step is taken on.

    Returns:
        The staged step. It ends short of ``depth`` where a bound asks for it and more parameters do not help.

    Raises:
        TypeError: ``ratios`` come without the gradient.
        ForgettingError: The direction leads nowhere, or the codes are forgotten already.
    """
    scores = [ratios.values[name] for name in moving]
    total = sum(map(torch.numel, scores))

    def attempt(k: int) -> tuple[Step, float]:
        stage, slope = _stage_direction(model, parameters, ratios, scores, moving, k, codes.batch_size)
        step = take_step(stage, slope, codes, settings, loss_scale=ratios.loss_scale)
        odds = log_odds(stage.outputs(codes.inputs), codes.labels)
        return step, float(codes.largest_class_mean(odds).nan_to_num(nan=math.inf))

    narrow = selected_count(float(settings.rho), total)
    wide = selected_count(min(float(settings.widen * settings.rho), 1.0), total)
    step, odds = attempt(narrow)
    if odds > _WORTHWHILE - settings.depth and wide > narrow:
        wider_step, wider_odds = attempt(wide)
        if wider_odds < odds - _WORTHWHILE:
            return wider_step
    return step


def _stage_direction(
    model: nn.Module,
    parameters: dict[str, Tensor],
    ratios: Ratios,
    scores: Sequence[Tensor],
    moving: Collection[str],
    k: int,
    batch_size: int | None,
) -> tuple[Stage, Tensor]:
    """Stage the direction on the k most sensitive of the moving parameters; also return the slope of the loss on it."""
    indices, counts = ops.select_indices(ops.select(scores, k)[0], scores, k)
    selected, sums = read_values(counts, ratios.sums_of(moving))
    sizes = [int(size) for size in selected]
    direction, gradient = ratios.steepest(dict(zip(moving, indices.split(sizes), strict=True)), sums)
    stage = SparseStage(model, parameters, moving, indices, counts, direction, sizes, batch_size)
    return stage, gradient.double() @ direction.double()
