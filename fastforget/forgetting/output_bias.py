"""The output bias of a class: the one parameter that its codes and its images certainly share."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fastforget.forgetting.code_batch import CodeBatch
from fastforget.forgetting.staging import Stage
from fastforget.waiting import constant, read

__all__ = ["silence"]

# Logits of images spread more widely than those of codes, at most twofold on the networks of docs/one-shot.md.
_SPREADS = 10.0
_ROUNDING = 256.0


def silence(stage: Stage, codes: CodeBatch, classes: Sequence[int]) -> float:
    """Lower the output biases of some classes until no input is assigned to them.

    The bias is found by what it does, whatever the layer is called: a parameter of C elements, each of which moves the
    logit of its own class alone, by the same amount for every code. It is lowered by ten times the spread of the
    logits of the codes. No other class loses by this: each keeps its lead over each other one.

    Args:
        stage: The parameters, with a step taken or not; the bias stays lowered in whatever step is taken later.
        codes: The codes to forget, or all.
        classes: The classes to forget.

    Returns:
        By how much their logits are lower, nats; 0 if there is no such parameter among those that may move.
    """
    before = stage.outputs(codes.inputs)
    total = before.shape[1]
    candidates = [name for name, value in stage.parameters.items() if value.shape == (total,)]
    if not candidates:
        return 0.0
    (low, high) = (number for (number,) in read(before.min(), before.max()))
    amount = _SPREADS * (high - low)
    if not 0 < amount < math.inf:
        return 0.0
    for name in candidates:
        stage.lower(name, classes, amount)
        effect = _effect(before.double() - stage.outputs(codes.inputs).double(), classes, before, amount)
        if effect > 0:
            return effect
        stage.lower(name, classes, 0.0)
    return 0.0


def _effect(drop: Tensor, classes: Sequence[int], before: Tensor, amount: float) -> float:
    """Return by how much the logits of the classes fell, if all by the same and no other moved; else 0."""
    where = constant([cls in classes for cls in range(drop.shape[1])], drop.device)
    own, others = torch.where(where, drop, math.nan), torch.where(where, 0.0, drop)
    (least,), (most,), (other,) = read(
        own.nan_to_num(nan=math.inf).min(), own.nan_to_num(nan=-math.inf).max(), others.abs().max()
    )
    slack = _ROUNDING * torch.finfo(before.dtype).eps * amount
    alike = most - least <= slack and other <= slack
    return least if alike and least >= amount / 2 else 0.0
