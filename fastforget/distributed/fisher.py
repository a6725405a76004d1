"""The diagonal Fisher of a model whose parameters `fully_shard` sharded over ranks."""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import nn

from fastforget.classifier.compilation import eager
from fastforget.classifier.devices import DeferredChecks
from fastforget.classifier.fingerprint import fingerprint
from fastforget.classifier.inputs import Inputs, check_finite, count_samples, plain
from fastforget.classifier.losses import Loss, cross_entropy, describe
from fastforget.distributed.communication import gather
from fastforget.distributed.consensus import consensus
from fastforget.distributed.parameters import sharded_parameters
from fastforget.distributed.passes import ShardedPasses
from fastforget.distributed.sharding import from_local_like, local_shards
from fastforget.fisher.diagonal import Definition, FisherDiagonal

__all__ = ["fisher_diagonal"]


def fisher_diagonal(
    model: nn.Module,
    inputs: Inputs,
    targets: Any,
    group: dist.ProcessGroup | None = None,
    *,
    loss: Loss = cross_entropy,
    reduction: Literal["mean", "sum"] = "mean",
    with_gradient: bool = False,
) -> FisherDiagonal:
    r"""Compute the diagonal of the empirical Fisher of a model that `fully_shard` sharded, over samples of all ranks.

    ::

        F_i = sum_r sum_n (dL_rn / dtheta_i)^2 / number of samples

    All ranks run their sample n at the same time. Gradients are squared where backward leaves them, before
    `fully_shard` reduces and scatters them, so it adds up squares. Nothing is gathered beyond what a forward and
    backward gathers. Each sample costs a forward and backward of its own: where every rank can hold a copy of the
    model, `fastforget.fisher_diagonal` and `merge_sharded` are faster.

    Args:
        model: In eval mode, every parameter sharded over its first dimension, in float32 or float64. It must be
            gathered and reduced in that dtype too: no `MixedPrecisionPolicy` with another one.
        inputs: This rank's samples, at least one; ranks may have different numbers of them.
        targets: The second argument of the loss, for instance class labels [N].
        group: The ranks, which must be those of the mesh; all by default.
        loss: ``loss(outputs, targets)`` returns one loss per sample, [N].
        reduction: "mean" or "sum".
        with_gradient: Also return the mean (or sum) of the per-sample gradients.

    Returns:
        DTensors by parameter name, sharded as the parameters are; losses and samples of all ranks. ``model`` is a
        fingerprint of the shards of all ranks, which differs from the fingerprint of the whole model.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument has a wrong value or shape, a parameter is frozen or not sharded, a module is in train
            mode, or inputs or losses are NaN or infinite. An error on one rank is raised on all of them.
        NotImplementedError: A parameter is sharded in another way, of another dtype, or used outside its module.
    """
    with consensus(group) as statement:
        model, inputs = eager(model), plain(inputs)
        shards = local_shards(model)
        parameters = sharded_parameters(model, group)
        samples, checks = count_samples(inputs, targets), DeferredChecks()
        check_finite(inputs, checks)
        checks.finish()
        if reduction not in ("mean", "sum"):
            raise ValueError(f'`reduction` must be "mean" or "sum", got {reduction!r}')
        statement.facts.update({"`reduction`": reduction, "`with_gradient`": with_gradient, "loss": describe(loss)})
        statement.notes.update(samples=samples, model=fingerprint(shards))
    sizes = [int(note["samples"]) for note in statement.all_notes]
    fingerprints = [note["model"] for note in statement.all_notes]
    passes = ShardedPasses(model, parameters, inputs, targets, loss, dist.get_world_size(group), samples=samples)
    squares = passes.sum_squares(max(sizes))
    gradient = passes.sum_gradients() if with_gradient else None
    losses = torch.cat(gather(passes.losses, sizes, group))
    if not bool(torch.isfinite(losses).all()):
        raise ValueError("`loss` must be finite, got NaN or infinity")
    fisher = FisherDiagonal(
        squares,
        gradient=gradient,
        fallback={},
        losses=losses,
        reduction="sum",
        weight=torch.tensor(float(sum(sizes)), dtype=torch.float64, device=losses.device),
        samples=sum(sizes),
        model=hashlib.blake2b(repr(fingerprints).encode(), digest_size=16).hexdigest(),
        definition=Definition("given", "sample", *describe(loss)),
    )
    if reduction == "mean":
        fisher.mean_()
    for values in (fisher, fisher.gradient or {}):
        values.update({name: from_local_like(part, parameters[name]) for name, part in values.items()})
    return fisher
