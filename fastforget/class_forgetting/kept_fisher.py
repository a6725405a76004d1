"""A kept Fisher: the sum over all codes, kept from before, takes the place of a pass over all codes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastforget.class_forgetting.code_batch import CodeBatch, inverse_doubts, take_rows
from fastforget.class_forgetting.live_codes import LiveCodes, check_logits
from fastforget.class_forgetting.recognition import examine_codes
from fastforget.class_forgetting.sensitivity import Ratios, Sensitivity
from fastforget.classifier.devices import read_values
from fastforget.classifier.fitting import DEVICE_ERRORS, SHAPE_ERRORS, checked_logits
from fastforget.classifier.losses import GroupScaledCrossEntropy, ScaledCrossEntropy, odds_of_losses
from fastforget.classifier.running import gather_logits, logits_of
from fastforget.fisher.diagonal import Definition, FisherDiagonal
from fastforget.fisher.kept_sums import replace_sum
from fastforget.fisher.micro_batches import mean_fisher

__all__ = ["check", "check_model", "recall_codes", "subtract_codes", "suitable_loss", "update"]

_AGAIN = 'compute it with fisher_diagonal(model, codes.inputs, codes.labels, reduction="sum")'
# How far the scale of the loss may be from that which suits the remaining codes: squares of 1 - p must fit float32.
_SCALES = math.log(1e9)
_LARGEST_SCALE = math.log(1e300)
# How much larger than those of the remaining codes the squares of 1 - p of the codes to forget may be in all: a float32
# sum is right to about 1e-6, and the remaining codes must not be lost in that.
_LARGER = math.log(1e6)


def check(kept: Any, parameters: Mapping[str, Tensor], codes: LiveCodes, classes: tuple[int, ...], rule: str) -> None:
    """Check that an argument can be the Fisher sum over these codes, before the model is looked at.

    Args:
        kept: The argument ``fisher``.
        parameters: The parameters that may move.
        codes: The codes.
        classes: The classes to forget.
        rule: The rule that asks for it.

    Raises:
        TypeError: It is something else.
        ValueError: It is the sum of something else, or the rule cannot use it.
    """
    if not isinstance(kept, FisherDiagonal):
        raise TypeError(f"`fisher` must be a FisherDiagonal, got {type(kept).__name__}")
    if rule != "natural":
        raise ValueError(
            f'`fisher` must be left out with rule="{rule}", whose step is set by the largest ratio of each tensor: '
            "a difference of sums does not resolve it"
        )
    if len(classes) > 1:
        raise ValueError(
            f"`cls` must be one class with `fisher`, got {list(classes)}: one direction does not fit several; forget "
            "them one after the other, with update=True"
        )
    kept.check_sum("`fisher`")
    if kept.definition != Definition(scale=kept.definition.scale) or kept.weight.dim():
        raise ValueError(
            f"`fisher` must be of given labels, samples and the cross-entropy, got {kept.definition}; {_AGAIN}"
        )
    count = len(codes)
    weight = kept.weight.item()
    if (kept.samples, weight, len(kept.losses)) != (count, count, count):
        raise ValueError(
            f"`fisher` must be the sum over all {count} codes, each once, got {kept.samples} samples of weight "
            f"{weight:g} with {len(kept.losses)} losses; {_AGAIN}, or name the classes forgotten earlier (forgotten=)"
        )
    for name, parameter in parameters.items():
        value = kept.get(name)
        if value is None or value.shape != parameter.shape or value.device != parameter.device:
            given = "none" if value is None else f"{tuple(value.shape)} on {value.device}"
            raise ValueError(
                f"`fisher` must hold parameter `{name}` of shape {tuple(parameter.shape)} on "
                f"{parameter.device}, got {given}"
            )


def check_model(kept: FisherDiagonal, fingerprint: str) -> None:
    """Raise ValueError if the sum is of another model than the one with this fingerprint."""
    if kept.model != fingerprint:
        raise ValueError(
            f"`fisher` must be of the model as it is, with fingerprint {fingerprint}, got one of {kept.model}: "
            f"every edit makes a kept Fisher outdated; {_AGAIN}"
        )


def recall_codes(kept: FisherDiagonal, model: nn.Module, codes: LiveCodes, classes: tuple[int, ...]) -> CodeBatch:
    """Return the codes with the log-odds that they had when the sum was computed, on this very model.

    The model is run only if their losses do not show that it knows them.

    Args:
        kept: The sum.
        model: The eager module.
        codes: The codes.
        classes: The classes to forget.

    Returns:
        The codes; their logits are not known.

    Raises:
        ValueError: The sum has lost the remaining codes.
        UnrecognisedCodesError: The model does not know the codes, or not all of those to forget.
    """
    odds = ScaledCrossEntropy(kept.definition.scale).log_odds(kept.losses)
    rows = tuple(codes.rows(c) for c in classes)
    batch = CodeBatch(codes.inputs, codes.labels, odds, rows, batch_size=codes.batch_size)
    sure = odds > 0  # p > 1/2; a smaller p can be the largest, too
    surely_known = take_rows(sure, list(chain(*rows))).all()
    groups = batch.group_weights
    squares = (2 * F.logsigmoid(-odds) + groups.double().log()).logsumexp(1)
    (all_known,), (number,), scales, (larger,) = read_values(
        surely_known, sure.sum(), inverse_doubts(odds, groups), squares[0] - squares[1]
    )
    if not (all_known and 2 * number >= len(odds)):
        examine_codes(model, codes, classes, complete=True)
    batch = replace(batch, log_scales=(scales[0], scales[1]))
    _check_scale(kept, batch, larger)
    return batch


def suitable_loss(codes: CodeBatch) -> ScaledCrossEntropy:
    """Return the loss whose Fisher sum resolves the remaining codes, however sure the model is of them."""
    return ScaledCrossEntropy(math.exp(min(codes.log_scales[1], _LARGEST_SCALE)))


def _check_scale(kept: FisherDiagonal, codes: CodeBatch, larger: float) -> None:
    """Check that the sum holds the remaining codes to a few digits.

    Args:
        kept: The sum.
        codes: The codes.
        larger: The logarithm of the sum of (1 - p)^2 over the codes to forget, over that of the others.

    Raises:
        ValueError: It does not.
    """
    narrow = next(iter(kept.values())).dtype == torch.float32
    needed = codes.log_scales[1]
    if needed > _LARGEST_SCALE or (narrow and not larger <= _LARGER):
        raise ValueError(
            "`fisher` must resolve the remaining codes, but the model is so sure of them (log-odds of about "
            f"{needed:.0f} nats) that they are lost in a sum over all codes; leave `fisher` out"
        )
    if abs(needed - math.log(kept.definition.scale)) > _SCALES:
        raise ValueError(
            f"`fisher` must be of a loss as large as the model is sure of its codes (log-odds of about {needed:.0f} "
            "nats), or their squared gradients leave the range of float32. Compute it with "
            f"loss=fastforget.classifier.losses.ScaledCrossEntropy({suitable_loss(codes).scale:.0e}), or leave "
            "`fisher` out"
        )


@dataclass(frozen=True, eq=False)
class _CheckedCrossEntropy(GroupScaledCrossEntropy):
    """The cross-entropy of codes, with a check of the outputs on the way."""

    codes: LiveCodes | None = None

    def __call__(self, outputs: Any, targets: Tensor) -> Tensor:
        if self.codes is not None:
            check_logits(logits_of(outputs), self.codes, len(targets))
        return super().__call__(outputs, targets)


def subtract_codes(
    kept: FisherDiagonal, model: nn.Module, parameters: Mapping[str, Tensor], live: LiveCodes, codes: CodeBatch
) -> Sensitivity:
    """Run the codes to forget alone and subtract their Fisher from the kept sum.

    Args:
        kept: The sum, not changed.
        model: The eager module.
        parameters: The parameters that may move.
        live: The codes that the sum is over.
        codes: The same with their log-odds.

    Returns:
        f_CF, f_CR and g_CF.

    Raises:
        SHAPE_ERRORS: The model fails on the codes for another reason than their shape.
        DEVICE_ERRORS: The device has no room for it now, or is in trouble.
        ValueError: The model does not take the codes, or they are not those of the sum.
    """
    to_forget = codes.to_forget
    loss = _CheckedCrossEntropy(codes.loss.classes, codes.log_scales, live)
    try:
        forget = mean_fisher(
            model,
            codes.samples,
            codes.forget_rows,
            codes.batch_size,
            loss=loss,
            parameters=parameters,
            with_gradient=True,
        )
    except DEVICE_ERRORS:
        raise
    except SHAPE_ERRORS:
        # If the codes are the reason, this says so.
        gather_logits(
            lambda inputs: checked_logits(model, inputs, "mnemonic_codes"), to_forget.inputs, to_forget.batch_size
        )
        raise
    odds, like = odds_of_losses(forget.losses, codes.log_scales[0]), next(iter(parameters.values()))
    bound = torch.finfo(like.dtype).eps ** 0.5 * (1 + to_forget.log_odds.abs())
    if not bool(((odds - to_forget.log_odds).abs() <= bound).all()):
        raise ValueError(
            f"`fisher` must be of these codes, but those of class {to_forget.labels.unique().tolist()} have log-odds "
            f"of {odds.mean():.3f} on average, and had {to_forget.log_odds.mean():.3f} there; {_AGAIN}"
        )
    return Sensitivity.of_difference(kept, forget, codes.log_scales)


def update(kept: FisherDiagonal, ratios: Ratios, codes: CodeBatch, logits: Tensor, model: str) -> None:
    """Make the sum one over the remaining codes, on the edited model.

    Their Fisher is taken as it was before the edit; their losses are those after it.

    Args:
        kept: The sum, changed in place.
        ratios: What followed from it, with f_CR.
        codes: The codes, those to forget among them.
        logits: Of all these codes after the edit.
        model: Fingerprint of the edited model.
    """
    scale = kept.definition.scale
    losses = ScaledCrossEntropy(scale)(codes.take_remain(logits), codes.take_remain(codes.labels))
    to_sum = len(codes.remain_rows) * math.exp(2 * (math.log(scale) - ratios.log_scales[1]))
    values = {name: value * to_sum for name, value in ratios.remain.items()}
    replace_sum(kept, values, losses, model, removed=len(codes.forget_rows))
