"""The output row of a class that was never seen, in a model whose parameters are spread over ranks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from fastforget.class_forgetting.code_batch import CodeBatch, take_rows
from fastforget.class_forgetting.drift import bearable_drift
from fastforget.class_forgetting.output_layer import OutputChange
from fastforget.classifier.running import logits_of
from fastforget.distributed.passes import ShardedPasses
from fastforget.distributed.sharding import Sharding, to_local
from fastforget.distributed.stage import ShardedStage
from fastforget.functional.output_row import Examined, unseen_rows

__all__ = ["disconnect_sharded_class"]

# Roundings between the shift of a mean logit and what features and rows say of it, generously.
_ROUNDING = 1024.0


@dataclass(frozen=True, eq=False)
class _ClassRow:
    """What a parameter with a row for each class has to do with one class, the same on every rank.

    Attributes:
        name: Of the parameter.
        row: The row of the class, float64 [D]; of a bias [1].
        features: The mean gradient of the class's logit with respect to it, over the remaining codes, and over those to
            forget: the mean features if the logit is linear in the row.
        longest: The largest norm of a row of remaining classes, [].
        average: The mean of a bias over the remaining classes, []; 0 for rows.
    """

    name: str
    row: Tensor
    features: tuple[Tensor, Tensor]
    longest: Tensor
    average: Tensor


def disconnect_sharded_class(
    stage: ShardedStage,
    parameters: dict[str, DTensor],
    codes: CodeBatch,
    remaining: Sequence[int],
    depth: float | None,
    spill: float,
) -> OutputChange:
    """Give a class the output row of a class that was never seen, see `unseen_rows`; stage the change.

    No rank sees the features of all codes. Their mean is the gradient of the mean logit with respect to the row, and
    that is all that the closed form needs. Rows and biases belong to the output layer if the logit of the class depends
    on no others among theirs, and if the logits of the codes then move as the closed form says: that of the class on
    average, and others by nothing but the drift. Otherwise the change is taken back.

    Args:
        stage: The shards, with the step taken.
        parameters: All parameters of the sharded model.
        codes: The codes, with one class to forget.
        remaining: The classes that remain.
        depth: How far beyond the decision boundary the codes of the class shall end on average, nats of log-odds; None
            for `usual_depth` of the remaining classes.
        spill: How much log-odds a remaining code may lose when the biases take back the drift, nats, see
            `bearable_drift`.

    Returns:
        The change to the whole layer; nothing is done if there is no such layer.
    """
    before = stage.outputs(codes.inputs)
    chosen = codes.take_forget(codes.labels)[:1]
    cls, rows = int(chosen), (codes.calibrating_rows, codes.forget_rows)
    gradients = [_sum_gradients(stage, parameters, codes, of_group, cls) for of_group in rows]
    uses = [id(parameter) for _, parameter in stage.sharded_model.named_parameters(remove_duplicate=False)]
    found = [
        class_row
        for name, parameter in parameters.items()
        if name in stage.parameters and parameter.shape[:1] == before.shape[1:] and uses.count(id(parameter)) == 1
        if (class_row := _class_row(name, parameter, [g[name] for g in gradients], rows, cls, remaining, stage.group))
    ]
    weights = [each for each in found if parameters[each.name].dim() > 1]
    biases = [each for each in found if parameters[each.name].dim() == 1]
    logits, drift = [take_rows(before, of_group) for of_group in rows], bearable_drift(codes, before, spill)
    for weight, bias in product(weights, [*biases, None]):
        for taken_back in (drift, None) if drift is not None and bias is not None else (None,):
            attempt = _closed_form(weight, bias, logits, chosen, remaining, depth, taken_back)
            _write(stage, attempt, parameters)
            after = stage.outputs(codes.inputs)
            if _moved_as_expected(attempt, weight, bias, logits, [take_rows(after, of_group) for of_group in rows]):
                return attempt
        for each in (weight, bias):
            if each is not None:
                stage.overlay(each.name, None)
    return OutputChange(chosen, reason="no linear layer whose rows serve nothing else gives the logits of the codes")


def _write(stage: ShardedStage, change: OutputChange, parameters: Mapping[str, DTensor]) -> None:
    """Stage what a change to the whole layer does to the shards of this rank."""

    def own_part(parameter: DTensor) -> dict[str, Any]:
        start, end = _span("the output layer", parameter, stage.group)
        held = (change.classes >= start) & (change.classes < end)
        part = {name: None if (all_ := getattr(change, name)) is None else all_[held] for name in ("rows", "biases")}
        drift = None if change.drift is None else change.drift[start:end]
        return {"classes": change.classes[held] - start, "drift": drift, **part}

    if change.weight is not None:
        replace(change, bias=None, **own_part(parameters[change.weight])).write(stage)
    if change.bias is not None:
        replace(change, weight=None, **own_part(parameters[change.bias])).write(stage)


def _sum_gradients(
    stage: ShardedStage, parameters: dict[str, DTensor], codes: CodeBatch, rows: Sequence[int], cls: int
) -> dict[str, Tensor]:
    """Return this rank's shards of the gradients of the sum of the logits that some codes give a class."""
    ranks, rank = dist.get_world_size(stage.group), dist.get_rank(stage.group)
    own_rows = rows[rank::ranks]
    inputs, labels = codes.samples(own_rows or rows[:1])

    def logit(outputs: Any, _: Tensor) -> Tensor:
        return logits_of(outputs)[:, cls]

    passes = ShardedPasses(stage.sharded_model, parameters, inputs, labels, logit, ranks, samples=len(own_rows))
    return passes.sum_gradients()


def _class_row(
    name: str,
    parameter: DTensor,
    gradients: Sequence[Tensor],
    rows: Sequence[Sequence[int]],
    cls: int,
    remaining: Sequence[int],
    group: dist.ProcessGroup | None,
) -> _ClassRow | None:
    """Return what a parameter of C rows has to do with a class, if its logit depends on no other of the rows."""
    width = math.prod(parameter.shape[1:])
    if parameter.dim() > 1 and width != parameter.shape[1]:
        return None
    start, end = _span(name, parameter, group)
    first_holder = Sharding.of(name, parameter, group).first_holder
    shard = to_local(parameter).reshape(end - start, width)

    def of_class(values: Tensor) -> Tensor:
        row = values.new_zeros(width, dtype=torch.float64)
        if first_holder and start <= cls < end:
            row = values.reshape(shard.shape)[cls - start].double()
        dist.all_reduce(row, group=group)  # all others add zeros: exact in any order
        return row

    def largest(norms: Tensor, classes: Sequence[int]) -> Tensor:
        held = [c - start for c in classes if start <= c < end]
        most = norms[held].max().double() if held else norms.new_zeros((), dtype=torch.float64)
        dist.all_reduce(most, dist.ReduceOp.MAX, group=group)
        return most

    others = [c for c in range(len(parameter)) if c != cls]
    alone = bool(largest(gradients[0].reshape(shard.shape).abs().sum(1), others) == 0)
    features = [of_class(gradient) / len(of_group) for gradient, of_group in zip(gradients, rows, strict=True)]
    if not alone or not bool(features[0].any()):
        return None
    average = shard.new_zeros((), dtype=torch.float64)
    if parameter.dim() == 1:
        average = parameter.full_tensor().detach()[list(remaining)].double().mean()
    longest = largest(shard.double().norm(dim=1), remaining)
    return _ClassRow(name, of_class(shard), (features[0], features[1]), longest, average)


def _closed_form(
    weight: _ClassRow,
    bias: _ClassRow | None,
    logits: Sequence[Tensor],
    chosen: Tensor,
    remaining: Sequence[int],
    depth: float | None,
    drift: Tensor | None,
) -> OutputChange:
    """Return the change to row and biases; ``logits`` are those of the remaining codes, and of the ones to forget."""
    live = list(remaining)
    left = [of_group.double() - (0.0 if drift is None else drift) for of_group in logits]
    others, own = (
        Examined(features[None], of_group[:, live]) for features, of_group in zip(weight.features, left, strict=True)
    )
    constants, scale, start = logits[0][:, chosen].double().mean(0) - weight.features[0] @ weight.row, 1.0, None
    if bias is not None:
        scale, start = float(bias.features[0]), bias.average
        constants = constants - scale * bias.row
    found = unseen_rows(others, own, depth=depth, longest=weight.longest, constants=constants, bias=start, scale=scale)
    name = None if bias is None else bias.name
    rows, biases = found.weight, found.bias
    change = OutputChange(chosen, "disconnected", weight.name, rows, name, biases, scale, depth=found.depth)
    return change.with_drift(drift)


def _moved_as_expected(
    change: OutputChange,
    weight: _ClassRow,
    bias: _ClassRow | None,
    before: Sequence[Tensor],
    after: Sequence[Tensor],
) -> bool:
    """Return whether the logits of both groups of codes did what a linear output layer does when the change is made."""
    if change.rows is None:
        return False
    new, old = change.rows[0], weight.row
    raised = 0.0
    if bias is not None and change.biases is not None:
        raised = change.scale * float(change.biases[0] - bias.row[0])
    for features, was, now in zip(weight.features, before, after, strict=True):
        moved = now.double() - was.double()
        own, others = moved[:, change.classes], moved if change.drift is None else moved + change.drift
        others = others.index_fill(1, change.classes, 0.0)
        size = float(features.abs() @ (new.abs() + old.abs())) + float(was.abs().max()) + float(now.abs().max())
        slack = _ROUNDING * torch.finfo(now.dtype).eps * size
        expected = float(features @ (new - old)) + raised
        if not (abs(float(own.mean()) - expected) <= slack and float(others.abs().max()) <= slack):
            return False
    return True


def _span(name: str, parameter: DTensor, group: dist.ProcessGroup | None) -> tuple[int, int]:
    """Return the first row of this rank's shard, and the end of it."""
    sharding, rank = Sharding.of(name, parameter, group), dist.get_rank(group)
    return sharding.starts[rank], sharding.starts[rank] + sharding.sizes[rank]
