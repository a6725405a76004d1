"""One class forgotten by a model whose parameters `fully_shard` spread over ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from fastforget import ops
from fastforget.class_forgetting.code_batch import CodeBatch
from fastforget.class_forgetting.evidence import read_evidence
from fastforget.class_forgetting.live_codes import LiveCodes, check_logits, prepare_codes
from fastforget.class_forgetting.output_layer import OutputChange
from fastforget.class_forgetting.recognition import batch_recognised
from fastforget.class_forgetting.sensitivity import TINY, Ratios
from fastforget.class_forgetting.settings import NaturalSettings
from fastforget.class_forgetting.step_length import take_step
from fastforget.classifier.arguments import check_optional_number
from fastforget.classifier.clock import Clock
from fastforget.classifier.compilation import eager
from fastforget.classifier.fingerprint import fingerprint
from fastforget.classifier.inputs import tensors_of
from fastforget.classifier.losses import log_odds
from fastforget.classifier.parameters import without_embedding_tables
from fastforget.classifier.running import gather_logits
from fastforget.codes.mnemonic_codes import MnemonicCodes
from fastforget.distributed.communication import gather
from fastforget.distributed.consensus import consensus
from fastforget.distributed.output_row import disconnect_sharded_class
from fastforget.distributed.parameters import sharded_parameters
from fastforget.distributed.perturbation import make_receipt
from fastforget.distributed.score_shards import ScoreShards
from fastforget.distributed.selection import count_selected
from fastforget.distributed.sensitivity import measure_sharded_sensitivity
from fastforget.distributed.sharding import local_shards, reshard
from fastforget.distributed.stage import ShardedStage, run_divided
from fastforget.edits.receipt import Receipt
from fastforget.edits.shortfall import warn_of_shortfall
from fastforget.errors import ForgettingError
from fastforget.functional.topk import selected_count

__all__ = ["natural_step"]


def natural_step(
    model: nn.Module,
    mnemonic_codes: MnemonicCodes,
    cls: int,
    group: dist.ProcessGroup | None = None,
    *,
    rho: float = 0.003,
    depth: float = 6.0,
    spill: float = 2.0,
    reach: float = 16.0,
    output_row: bool | None = None,
    output_depth: float | None = None,
    forgotten: int | Sequence[int] = (),
    batch_size: int | None = None,
) -> Receipt:
    """Make a sharded classifier forget a class, in place, from its mnemonic codes.

    What ``fastforget.one_shot(..., widen=1)`` does, on parameters that stay sharded: the codes are divided among the
    ranks, see `fisher_diagonal`; the mask is that of `topk_mask`; each rank changes its shards, and the length of the
    step is read off logits that all ranks see. The rank that holds the output row of the class writes it. Where the
    model has no such row, a warning says so; no output bias is lowered in its place.

    Beside what `fully_shard` gathers for each forward and backward, logits, histograms and the rows of the class are
    sent. Steps are tried on the model itself: after an error it is what it was before, but while this runs it should
    answer nobody.

    Args:
        model: In eval mode, every parameter sharded over its first dimension, in float32 or float64.
        mnemonic_codes: The codes, the same on all ranks.
        cls: The class to forget.
        group: The ranks, those of the mesh; all by default.
        rho: Share of the parameters that moves, (0, 1].
        depth: How far beyond the decision boundary the codes end, nats of log-odds.
        spill: How much log-odds a remaining code may lose, nats.
        reach: The longest step, in units of the one that would be needed to first order.
        output_row: Also give the class the output row of a class that was never seen. By default where the model has
            such rows; True to refuse a model without, False for the step alone.
        output_depth: How far beyond the decision boundary the output row puts the codes on average, nats of log-odds;
            by default as far as the remaining classes are from codes of each other.
        forgotten: The classes forgotten earlier.
        batch_size: How many codes all ranks together run forward at a time; all of them by default.

    Returns:
        The receipt of this rank, for `revert` and `apply`.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument has a wrong value, the ranks differ, or `fisher_diagonal` does not take the model.
        UnrecognisedCodesError: The model was not trained with these codes.
        NotImplementedError: As for `fisher_diagonal`.
        ForgettingError: No step forgets the class, or there is no output row and one was asked for.
    """
    clock = Clock()
    with consensus(group) as statement:
        model = eager(model)
        shards = local_shards(model)
        parameters = sharded_parameters(model, group)
        _check_output_options(output_row, output_depth)
        settings = NaturalSettings(rho=rho, widen=1.0, depth=depth, spill=spill, reach=reach)
        live_codes, classes = _prepare_codes(model, mnemonic_codes, cls, forgotten, parameters, batch_size)
        moving = {name: parameters[name] for name in without_embedding_tables(model, parameters)}
        said = {name: value for name, value in asdict(settings).items() if name != "widen"}  # which is not asked for
        code_sums = ops.fingerprint([leaf.contiguous() for leaf in tensors_of(live_codes.inputs)]).tolist()
        statement.facts.update(
            {
                **said,
                "`batch_size`": batch_size,
                "`output_row`": output_row,
                "`output_depth`": output_depth,
                "`cls`": classes,
                "`forgotten`": live_codes.forgotten,
                "`mnemonic_codes`": code_sums,
            }
        )
        before = fingerprint(shards)
    logits = gather_logits(lambda some: run_divided(model, some, group), live_codes.inputs, batch_size)
    check_logits(logits, live_codes)
    codes = batch_recognised(live_codes, classes, logits)
    ratios = measure_sharded_sensitivity(model, parameters, moving, codes, group).into_ratios()
    stage, slope = _stage_direction(model, shards, ratios, moving, codes, settings, group)
    to_forget, bounded = codes.to_forget, settings.after(len(live_codes.forgotten), len(classes))
    try:
        step = take_step(stage, slope, codes, bounded, loss_scale=ratios.loss_scale)
        by_step = log_odds(stage.outputs(to_forget.inputs), to_forget.labels)
        change = OutputChange(codes.take_forget(codes.labels)[:1])
        if output_row is not False:
            remaining = [c for c in live_codes.classes if c not in classes]
            change = disconnect_sharded_class(stage, parameters, codes, remaining, output_depth, bounded.spill)
        _check_forgotten(to_forget, stage.outputs(to_forget.inputs), change, output_row=output_row)
        evidence = {
            "forget_log_odds_before": float(to_forget.log_odds.double().mean()),
            "forget_log_odds_after": float(by_step.double().mean()),
            **codes.usage(),
            **read_evidence(change, stage, to_forget.inputs, None, None),
        }
        with consensus(group):  # a rank on which warnings are errors stops all
            warn_of_shortfall(evidence, change.reason, wanted=output_row is not False)
    except BaseException:
        stage.put_back()
        raise
    told = {"forgotten": live_codes.forgotten, "codes": live_codes.given.fingerprint()}
    facts = {**told, "classes": classes, "settings": said, "evidence": evidence, "seconds": clock.seconds()}
    reshard(model)
    return make_receipt(shards, stage.edits(), before, group, rule="natural", alpha=step.alpha, **facts)


def _prepare_codes(
    model: nn.Module,
    mnemonic_codes: object,
    cls: int,
    forgotten: int | Sequence[int],
    parameters: Mapping[str, DTensor],
    batch_size: int | None,
) -> tuple[LiveCodes, tuple[int, ...]]:
    if not isinstance(mnemonic_codes, MnemonicCodes):
        raise TypeError(f"`mnemonic_codes` must be MnemonicCodes, got {type(mnemonic_codes).__name__}")
    like = next(iter(parameters.values()))
    live_codes, classes = prepare_codes(model, mnemonic_codes, cls, forgotten, like, batch_size)
    if len(classes) > 1:
        raise ValueError(f"`cls` must be one class, got {list(classes)}: forget them one after the other")
    return live_codes, classes


def _check_output_options(output_row: object, output_depth: float | None) -> None:
    check_optional_number("output_depth", output_depth)
    if output_row is not None and not isinstance(output_row, bool):
        raise TypeError(f"`output_row` must be a bool or None, got {type(output_row).__name__}")


def _check_forgotten(to_forget: CodeBatch, outputs: Tensor, change: OutputChange, *, output_row: bool | None) -> None:
    """Raise ForgettingError if there is no output row and one was asked for, or the codes are not forgotten."""
    if output_row and not change.claim:
        raise ForgettingError(
            "`output_row` needs a linear layer that produces the logits, but there is none, because "
            f"{change.reason}; the model is unchanged"
        )
    if not to_forget.beyond_boundary(outputs):
        raise ForgettingError(
            "no step within reach forgets the codes and spares the remaining ones; another `rho`, or a larger "
            "`spill` or `reach`, may allow more; the model is unchanged"
        )


def _stage_direction(
    model: nn.Module,
    shards: nn.Module,
    ratios: Ratios,
    parameters: Mapping[str, DTensor],
    codes: CodeBatch,
    settings: NaturalSettings,
    group: dist.ProcessGroup | None,
) -> tuple[ShardedStage, Tensor]:
    """Stage g_CF / (f_CR + eps) on the most sensitive elements; also return the slope of the loss along it."""
    elements = sum(parameter.numel() for parameter in parameters.values())
    scores = ScoreShards.like([ratios.values[name] for name in parameters], list(parameters.values()), group)
    selected = count_selected(scores, selected_count(float(settings.rho), elements), group)
    parts = scores.parts
    if selected:
        indices, counts = ops.select_indices(ops.select(parts, selected)[0], parts, selected)
    else:
        indices = parts[0].new_empty(0, dtype=torch.int32)
        counts = indices.new_zeros(len(parts), dtype=torch.int64)
    sizes = counts.tolist()
    # As `Ratios.steepest`, with the mean of f_CR over all ranks.
    remain_sum = _sum_over_ranks(torch.stack([ratios.remain[name].double().sum() for name in parameters]).sum(), group)
    eps = max(0.1 * float(remain_sum) / elements, TINY)
    places = list(zip(parameters, indices.split(sizes), strict=True))
    gradients = ratios.gradient or {}
    gradient = torch.cat([gradients[name].view(-1)[at] for name, at in places])
    remain = torch.cat([ratios.remain[name].view(-1)[at] for name, at in places])
    direction = gradient / remain.add_(eps)
    targets = {name: shards.get_parameter(name).detach() for name in parameters}
    stage = ShardedStage(model, shards, targets, indices, counts, sizes, direction, codes.batch_size, group)
    return stage, _sum_over_ranks(gradient.double() @ direction.double(), group)


def _sum_over_ranks(value: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """Return a number's sum over ranks, added in their order: the same bits everywhere, so that all decide alike."""
    return torch.cat(gather(value.view(1), [1] * dist.get_world_size(group), group)).sum()
