"""The output biases: the parameters that the codes and the images of a class certainly share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastforget.forgetting.code_batch import CodeBatch
from fastforget.forgetting.staging import Stage
from fastforget.waiting import constant, read

__all__ = ["Biases", "settle"]

# Logits of images spread more widely than those of codes; ten times as far is beyond any of them.
_SPREADS = 10.0
# Roundings between a bias and its logit, generously: in bfloat16 many more would let any parameter pass.
_ROUNDING = 16.0


@dataclass
class Biases:
    """How output biases were moved, in terms of the logits.

    Attributes:
        silent: By how much the logits of the forgotten classes were lowered, [C], nats.
        drift: What was taken back of the step's shift of the others, [C], nats.
        name: The parameter; None if there is none.
        scale: Nats by which a logit falls when its bias is lowered by one.
    """

    silent: Tensor
    drift: Tensor
    name: str | None = None
    scale: float = 1.0

    @property
    def lowered(self) -> Tensor:
        """By how much every logit was lowered, [C]."""
        return self.silent + self.drift

    def write(self, stage: Stage) -> None:
        """Stage the biases."""
        if self.name is not None:
            stage.lower(self.name, self.lowered / self.scale)

    def scaled(self, factor: float) -> Biases:
        """Return what belongs to a step scaled by a factor: its shift is so much smaller, and silence is silence."""
        return Biases(self.silent, factor * self.drift, self.name, self.scale)


def settle(stage: Stage, codes: CodeBatch, classes: Sequence[int], spill: float) -> tuple[float, Biases]:
    """Make up for what a step did to the remaining classes on average, and silence the forgotten ones.

    The output bias is found by what it does, whatever the layer is called: a parameter of C elements, each of which
    moves the logit of its own class alone, by the same amount for every code.

    * Of each remaining class it takes back the mean shift of its logit over the remaining codes, against the mean of
      the remaining logits. A step shifts the logits of images much as it shifts those of codes, and a shift common to
      all inputs is what moves the images that are near a boundary across it. Left out where a remaining code would
      lose more than ``spill`` nats by it, or where the remaining codes are not run.
    * The forgotten classes are lowered by ten times the spread of the logits of the codes, until no input is assigned
      to them. No other class loses by this: each keeps its lead over each other one.

    Args:
        stage: The parameters, with a step taken or not; the biases stay moved in whatever step is taken later.
        codes: The codes to forget, or all.
        classes: The classes to forget.
        spill: Nats.

    Returns:
        By how much the logits of the forgotten classes are lower, nats, and how the biases were moved; not at all if
        there is no such parameter among those that may move.
    """
    few, outputs = codes.to_forget(), stage.outputs(codes.inputs)
    before = codes.inside(outputs)
    zeros = torch.zeros_like(before[0], dtype=torch.float64)
    candidates = [name for name, value in stage.parameters.items() if value.shape == zeros.shape]
    if not candidates:
        return 0.0, Biases(zeros, zeros)
    (low, high) = (number for (number,) in read(before.min(), before.max()))
    amount = _SPREADS * (high - low)
    if not 0 < amount < math.inf:
        return 0.0, Biases(zeros, zeros)
    chosen = constant([cls in classes for cls in range(len(zeros))], zeros.device)
    for name in candidates:
        stage.lower(name, amount * chosen.double())
        effect = _effect(before.double() - stage.outputs(few.inputs).double(), chosen, before.dtype, amount)
        if effect > 0:
            silent = Biases(amount * chosen.double(), zeros, name, effect / amount)
            silent.write(stage)  # a temperature, for instance, makes it more or less than was asked for
            return amount, _make_up(stage, codes, silent, outputs, spill)
        stage.lower(name, None)
    return 0.0, Biases(zeros, zeros)


def _drift(codes: CodeBatch, logits: Tensor) -> Tensor | None:
    """Return the mean shift of the logit of each remaining class over the remaining codes, [C]; 0 for the others."""
    if codes.logits is None or not len(codes.outside(codes.labels)):
        return None
    shift = (codes.outside(logits).double() - codes.outside(codes.logits).double()).mean(0)
    live = torch.zeros_like(shift).index_fill(0, codes.outside(codes.labels), 1.0)
    return live * (shift - (shift * live).sum() / live.sum())


def _make_up(stage: Stage, codes: CodeBatch, silent: Biases, outputs: Tensor, spill: float) -> Biases:
    """Take the drift back, too, if the remaining codes bear it; what it does to logits is known without a run."""
    drift = _drift(codes, outputs)
    if drift is None:
        return silent
    losses = codes.loss_of_others(outputs.double()), codes.loss_of_others(outputs.double() - drift)
    (before,), (after,) = read(*losses)
    if not after <= max(before, spill):
        return silent
    both = Biases(silent.silent, drift, silent.name, silent.scale)
    both.write(stage)
    return both


def _effect(drop: Tensor, chosen: Tensor, dtype: torch.dtype, amount: float) -> float:
    """Return by how much the chosen logits fell, if all by the same and no other moved; else 0."""
    own, others = torch.where(chosen, drop, math.nan), torch.where(chosen, 0.0, drop)
    (least,), (most,), (other,) = read(
        own.nan_to_num(nan=math.inf).min(), own.nan_to_num(nan=-math.inf).max(), others.abs().max()
    )
    slack = _ROUNDING * torch.finfo(dtype).eps * max(abs(most), amount)
    return least if most - least <= slack and other <= slack < least else 0.0
