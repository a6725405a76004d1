"""The Fisher of all codes, kept from before, instead of a pass over all codes: f_CR = (sum over all - f_CF) / rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastforget.batch import logits_of
from fastforget.diagonal import Definition, FisherDiagonal, replace_sum
from fastforget.forgetting.code_batch import (
    DEVICE_ERRORS,
    SHAPE_ERRORS,
    CodeBatch,
    LiveCodes,
    at_least_some,
    batch,
    check_outputs,
    examine,
    fitting_logits,
    mean_doubt,
)
from fastforget.forgetting.micro_batches import gather_logits, mean_fisher
from fastforget.forgetting.sensitivity import TINY, Sensitivity
from fastforget.losses import ScaledCrossEntropy
from fastforget.waiting import read

__all__ = ["check", "check_model", "recall", "sensitivity", "update"]

_AGAIN = 'compute it with fisher_diagonal(model, codes.inputs, codes.labels, reduction="sum")'
# How much surer of its codes a model may be than the loss was scaled for: squares of 1 - p must fit float32.
_SURER = 1e9


def check(kept: Any, parameters: Mapping[str, Tensor], codes: LiveCodes, classes: tuple[int, ...], rule: str) -> None:
    """Check that it can be the sum over these codes, before the model is looked at.

    Args:
        kept: What was kept.
        parameters: The parameters that may move.
        codes: The codes.
        classes: The classes to forget.
        rule: The rule that asks for it.

    Raises:
        TypeError: It is something else.
        ValueError: It is the sum of something else, or the rule cannot do with it.
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
            f"{weight:g} with {len(kept.losses)} losses; {_AGAIN}"
        )
    for name, parameter in parameters.items():
        value = kept.get(name)
        if value is None or value.shape != parameter.shape or value.device != parameter.device:
            found = "none" if value is None else f"{tuple(value.shape)} on {value.device}"
            raise ValueError(
                f"`fisher` must hold parameter `{name}` of shape {tuple(parameter.shape)} on "
                f"{parameter.device}, got {found}"
            )


def check_model(kept: FisherDiagonal, fingerprint: str) -> None:
    """Raise ValueError if the sum is of another model than the one with this fingerprint."""
    if kept.model != fingerprint:
        raise ValueError(
            f"`fisher` must be of the model as it is, with fingerprint {fingerprint}, got one of {kept.model}: "
            f"every edit makes a kept Fisher outdated; {_AGAIN}"
        )


def recall(kept: FisherDiagonal, model: nn.Module, codes: LiveCodes, classes: tuple[int, ...]) -> CodeBatch:
    """Return the codes with the log-odds that they had when the sum was computed, on this very model.

    The model is run only if their losses do not show that it knows them.

    Args:
        kept: The sum.
        model: The eager module.
        codes: The codes.
        classes: The classes to forget.

    Raises:
        ValueError: The model is so sure of its codes that the sum has lost them.
        UnrecognisedCodesError: The model does not know them.
    """
    odds = ScaledCrossEntropy(kept.definition.scale).log_odds(kept.losses)
    known = batch(codes, classes, odds)
    sure = odds > 0  # p > 1/2; a smaller p can be the largest, too
    (doubt,), (all_sure,), (number,) = read(mean_doubt(odds), known.inside(sure).all(), sure.sum())
    vars(known)["doubt"] = at_least_some(doubt)
    if known.scale > _SURER * kept.definition.scale:
        raise ValueError(
            "`fisher` must be of a larger loss, since the model is so sure of its codes that their squared gradients "
            f"vanish; compute it with loss=fastforget.losses.ScaledCrossEntropy({min(known.scale, 1e100):.0e})"
        )
    if all_sure and 2 * number >= len(odds):
        return known
    return examine(model, codes, classes)


@dataclass(frozen=True)
class _Loss(ScaledCrossEntropy):
    """The cross-entropy of codes, with a look at the outputs on the way."""

    codes: LiveCodes | None = None

    def __call__(self, outputs: Any, targets: Tensor) -> Tensor:
        if self.codes is not None:
            check_outputs(logits_of(outputs), self.codes, len(targets))
        return super().__call__(outputs, targets)


def sensitivity(
    kept: FisherDiagonal, model: nn.Module, parameters: Mapping[str, Tensor], codes: LiveCodes, known: CodeBatch
) -> Sensitivity:
    """Run the codes to forget alone and subtract their Fisher from the kept sum.

    Args:
        kept: The sum, not changed.
        model: The eager module.
        parameters: The parameters that may move.
        codes: The codes.
        known: The same with their log-odds.

    Returns:
        f_CF, f_CR and g_CF.

    Raises:
        SHAPE_ERRORS: The model fails on the codes for another reason than their shape.
        DEVICE_ERRORS: The device has no room for it now, or is in trouble.
        ValueError: The model does not take the codes, or they are not those of the sum.
    """
    few, scale = known.to_forget(), kept.definition.scale
    try:
        loss = _Loss(scale, codes)
        found = mean_fisher(
            model,
            known.samples,
            known.forget_rows,
            known.batch_size,
            loss=loss,
            parameters=parameters,
            with_gradient=True,
        )
    except DEVICE_ERRORS:
        raise
    except SHAPE_ERRORS:  # says so if the codes are the reason
        gather_logits(lambda some: fitting_logits(model, some, "mnemonic_codes"), few.inputs, few.batch_size)
        raise
    odds, like = loss.log_odds(found.losses), next(iter(parameters.values()))
    bound = torch.finfo(like.dtype).eps ** 0.5 * (1 + few.odds.abs())
    if not bool(((odds - few.odds).abs() <= bound).all()):
        raise ValueError(
            f"`fisher` must be of these codes, but those of class {few.labels.unique().tolist()} have log-odds of "
            f"{odds.mean():.3f} on average, and had {few.odds.mean():.3f} there; {_AGAIN}"
        )
    # as if the loss had been scaled for these codes
    return Sensitivity.of_difference(kept, found, TINY * (scale / known.scale) ** 2)


def update(kept: FisherDiagonal, found: Sensitivity, known: CodeBatch, logits: Tensor, model: str) -> None:
    """Make the sum one over the remaining codes, on the edited model.

    Their Fisher is taken as it was before the edit; their losses are those after it.

    Args:
        kept: The sum, changed in place.
        found: The sensitivity that followed from it, after the ratios.
        known: The codes.
        logits: Of all these codes after the edit.
        model: Fingerprint of the edited model.
    """
    everything, few = found.counts
    labels, outputs = known.outside(known.labels), known.outside(logits)
    losses = ScaledCrossEntropy(kept.definition.scale)(outputs, labels)
    values = {name: value * (everything - few) for name, value in found.remain.items()}
    replace_sum(kept, values, losses, model, gone=few)
