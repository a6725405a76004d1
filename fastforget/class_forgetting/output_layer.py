"""The output layer after an edit: forgotten classes get the rows of classes that were never seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from fastforget.class_forgetting.code_batch import take_rows
from fastforget.class_forgetting.stage import Stage
from fastforget.classifier.devices import read_values, upload
from fastforget.classifier.inputs import Inputs, transform
from fastforget.classifier.losses import log_odds
from fastforget.classifier.output_layer import Examination, OutputLayer
from fastforget.functional.output_row import Examined, unseen_rows_of_layer, usual_depth

__all__ = ["Calibration", "OutputChange", "disconnect_classes"]

# Roundings between a bias and its logit, generously: in bfloat16 many more would let any parameter pass.
_ROUNDING = 16.0


@dataclass(frozen=True, eq=False)
class OutputChange:
    """What was done to the output layer, at any length of the step.

    Attributes:
        classes: The forgotten classes, int64 [K].
        claim: "disconnected" if their rows are those of classes never seen; "silenced" if their bias alone was lowered;
            "" if nothing was done to them.
        weight: Name of the parameter of rows; None if none was changed.
        rows: What the rows of the forgotten classes became, float64 [K, D].
        bias: Name of the bias; None if none was changed.
        biases: What those of the forgotten classes became, or by how much they were lowered where there are no
            ``rows``, float64 [K].
        scale: Nats by which a logit rises when its bias rises by one.
        drift: How much of the step's shift of the others was taken back, [C], nats.
        depth: Nats of log-odds beyond the boundary that the change was made for, a number or a scalar.
        reason: Why the classes were not disconnected, as words that follow a "because"; "" if they were.
    """

    classes: Tensor
    claim: Literal["", "silenced", "disconnected"] = ""
    weight: str | None = None
    rows: Tensor | None = None
    bias: str | None = None
    biases: Tensor | None = None
    scale: float = 1.0
    drift: Tensor | None = None
    depth: float | Tensor = 0.0
    reason: str = ""

    @property
    def silenced_by(self) -> float:
        """By how much the logit of the forgotten class that was lowered most was lowered by its bias alone, nats."""
        if self.claim != "silenced" or self.biases is None:
            return 0.0
        return self.scale * float(self.biases.max())

    def with_drift(self, drift: Tensor | None) -> OutputChange:
        """Return the change with a drift that the biases take back, where there are any."""
        return self if self.bias is None or drift is None else replace(self, drift=drift)

    def write(self, stage: Stage, factor: float = 1.0) -> None:
        """Stage the change with a step scaled by a factor: its shift of the others is so much smaller."""
        if self.weight is not None:
            stage.overlay(self.weight, self._set_rows)
        if self.bias is not None:
            stage.overlay(self.bias, partial(self._move_biases, factor=factor))

    def _set_rows(self, weight: Tensor) -> None:
        if self.rows is not None:
            rows = self.rows.view(len(self.classes), *weight.shape[1:])
            weight.index_copy_(0, self.classes, rows.to(weight.dtype))

    def _move_biases(self, bias: Tensor, factor: float) -> None:
        moved = bias.double()
        if self.drift is not None:
            moved = moved - self.drift * (factor / self.scale)
        if self.biases is not None:
            own = self.biases if self.rows is not None else moved[self.classes] - self.biases
            moved = moved.index_copy(0, self.classes, own)
        bias.copy_(moved)


@dataclass(frozen=True, eq=False)
class Calibration:
    """Samples that an output layer is fitted to, as rows of a run of more of them.

    Attributes:
        run: What was run, leaves [N, ...].
        examination: What that run says.
        rows: Which of the N are meant; None for all.
    """

    run: Inputs
    examination: Examination
    rows: Sequence[int] | None = None

    @property
    def inputs(self) -> Inputs:
        """The samples."""
        rows = self.rows
        return self.run if rows is None else transform(lambda leaf: take_rows(leaf, rows), self.run)

    @property
    def examined(self) -> Examined:
        """Their features and logits."""
        found, rows = self.examination, self.rows
        both = (found.features, found.logits)
        return Examined(*(both if rows is None else (take_rows(values, rows) for values in both)))


def disconnect_classes(
    stage: Stage,
    samples: Calibration,
    own: Calibration | None,
    classes: Sequence[int],
    remaining: Sequence[int],
    depth: float | Tensor | None,
    drift: Tensor | None = None,
) -> OutputChange:
    """Give classes the output rows of classes that were never seen, see `unseen_rows`; stage the change.

    The layer is found by what it does, see `look_for_output_layer`. Where there is none whose rows may move, but an
    output bias, that is lowered instead: by so much that no sample that the model is as sure of as of these would be
    assigned to the class.

    A row moves its own logit alone: every other class keeps its lead over each other one.

    Args:
        stage: The parameters, with a step taken or not. The change stays in whatever step is taken later.
        samples: Of remaining classes, run as they are staged.
        own: Those of the classes to forget, or None.
        classes: The classes to forget.
        remaining: The classes that remain.
        depth: How far beyond the decision boundary samples of the classes shall end on average, nats of log-odds; None
            for `usual_depth` of the remaining classes.
        drift: What the output biases take back of the logits beside, where there are any, [C], nats.

    Returns:
        The change; nothing is done if there is neither such a layer nor such a bias among the staged parameters.
    """
    chosen = upload(list(classes), samples.examination.logits.device).long()
    layer = samples.examination.layer
    if own is not None:
        own.examination.assume(layer)
    if isinstance(layer, OutputLayer) and layer.weight in stage.parameters:
        change = _unseen_rows(stage, layer, samples, own, chosen, remaining, depth, drift)
    else:
        reason = layer if isinstance(layer, str) else f"`{layer.weight}` is not among the parameters that may move"
        change = replace(_silence(stage, samples.inputs, chosen, remaining, depth), reason=reason)
    change = change.with_drift(drift)
    change.write(stage)
    return change


def _unseen_rows(
    stage: Stage,
    layer: OutputLayer,
    samples: Calibration,
    own: Calibration | None,
    chosen: Tensor,
    remaining: Sequence[int],
    depth: float | Tensor | None,
    drift: Tensor | None,
) -> OutputChange:
    bias = layer.bias if layer.bias in stage.parameters else None
    taken_back = 0.0 if drift is None or bias is None else drift.index_fill(0, chosen, 0.0)

    def examine(given: Calibration) -> Examined:
        features, logits = given.examined.features, given.examined.logits
        return Examined(features, logits.double() - taken_back)

    found = unseen_rows_of_layer(
        stage.parameters[layer.weight],
        None if bias is None else stage.parameters[bias],
        examine(samples),
        None if own is None else examine(own),
        classes=chosen,
        remaining=upload(list(remaining), chosen.device).long(),
        depth=depth,
        scale=layer.scale,
    )
    rows, biases = found.weight, found.bias
    return OutputChange(chosen, "disconnected", layer.weight, rows, bias, biases, layer.scale, depth=found.depth)


def _silence(
    stage: Stage, samples: Inputs, chosen: Tensor, remaining: Sequence[int], depth: float | Tensor | None
) -> OutputChange:
    """Find an output bias: a parameter of C elements, each of which moves the logit of its own class alone."""
    nothing = OutputChange(chosen)
    before = stage.outputs(samples)
    names = [name for name, value in stage.parameters.items() if value.shape == before.shape[1:]]
    if not names:
        return nothing
    surest = log_odds(before, before.argmax(1)).double().max()
    deep = (
        usual_depth(before[:, list(remaining)])
        if depth is None
        else torch.as_tensor(depth, dtype=torch.float64, device=surest.device)
    )
    (amount,), (goal,) = read_values(surest.clamp(min=0.0) + deep, deep)
    if not 0 < amount < math.inf:
        return nothing
    for name in names:
        lowered = torch.full_like(chosen, amount, dtype=torch.float64)
        probe = OutputChange(chosen, "silenced", bias=name, biases=lowered, depth=goal)
        probe.write(stage)
        effect = _effect(before.double() - stage.outputs(samples).double(), chosen, before.dtype, amount)
        stage.overlay(name, None)
        if effect > 0:
            scale = effect / amount
            return replace(probe, biases=lowered / scale, scale=scale)
    return nothing


def _effect(drop: Tensor, chosen: Tensor, dtype: torch.dtype, amount: float) -> float:
    """Return by how much the chosen logits fell, if all by the same and no other moved; else 0."""
    own, others = drop[:, chosen], drop.index_fill(1, chosen, 0.0)
    (least,), (most,), (other,) = read_values(
        own.nan_to_num(nan=math.inf).min(), own.nan_to_num(nan=-math.inf).max(), others.abs().max()
    )
    slack = _ROUNDING * torch.finfo(dtype).eps * max(abs(most), amount)
    return least if most - least <= slack and other <= slack < least else 0.0
