"""One class forgotten by a model whose parameters `fully_shard` spread over ranks."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils import _pytree as pytree

from fastforget import ops
from fastforget.batch import Inputs, forward, logits_of, tensors_of
from fastforget.codes import MnemonicCodes
from fastforget.distributed.agreement import agreement, gather
from fastforget.distributed.fisher import Run, sharded_parameters
from fastforget.distributed.layout import local_shards, reshard
from fastforget.distributed.perturbation import receipt_of
from fastforget.distributed.selection import Shards, selected_here
from fastforget.errors import ForgettingError, UnrecognisedCodesError
from fastforget.fingerprint import fingerprint
from fastforget.forgetting import code_batch
from fastforget.forgetting.code_batch import CodeBatch
from fastforget.forgetting.micro_batches import gather_logits
from fastforget.forgetting.rules import along
from fastforget.forgetting.sensitivity import Sensitivity
from fastforget.forgetting.staging import Stage
from fastforget.losses import ScaledCrossEntropy, log_odds
from fastforget.model import eager, outside_tables
from fastforget.receipt import Edit, Receipt
from fastforget.selection import count

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
    forgotten: int | Sequence[int] = (),
    batch_size: int | None = None,
) -> Receipt:
    """Make a sharded classifier forget a class, in place, from its mnemonic codes.

    What ``fastforget.one_shot(..., silence=False, widen=1)`` does, on parameters that stay sharded: the codes are
    divided among the ranks, see `fisher_diagonal`; the mask is that of `topk_mask`; each rank changes its shards, and
    the length of the step is read off logits that all ranks see. Beside what `fully_shard` gathers for each forward and
    backward, logits and histograms are sent. Steps are tried on the model itself: after an error it is what it was
    before, but while this runs it should answer nobody.

    Args:
        model: In eval mode, every parameter sharded over its first dimension, in float32 or float64.
        mnemonic_codes: The codes, the same on all ranks.
        cls: The class to forget.
        group: The ranks, those of the mesh; all by default.
        rho: Share of the parameters that moves, (0, 1].
        depth: How far beyond the decision boundary the codes end, nats of log-odds.
        spill: How much log-odds a remaining code may lose, nats.
        reach: The longest step, in units of the one that would be needed to first order.
        forgotten: The classes forgotten earlier.
        batch_size: How many codes all ranks together run forward at a time; all of them by default.

    Returns:
        The receipt of this rank, for `revert` and `apply`.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument has a wrong value, the ranks differ, or `fisher_diagonal` does not take the model.
        UnrecognisedCodesError: The model was not trained with these codes.
        NotImplementedError: As for `fisher_diagonal`.
        ForgettingError: No step forgets the class.
    """
    started = time.perf_counter()
    settings = {"rho": rho, "depth": depth, "spill": spill, "reach": reach}
    with agreement(group) as here:
        model = eager(model)
        shards = local_shards(model)
        parameters = sharded_parameters(model, group)
        _check_settings(settings)
        if not isinstance(mnemonic_codes, MnemonicCodes):
            raise TypeError(f"`mnemonic_codes` must be MnemonicCodes, got {type(mnemonic_codes).__name__}")
        live, classes = code_batch.prepare(
            model, mnemonic_codes, cls, forgotten, next(iter(parameters.values())), batch_size
        )
        if len(classes) > 1:
            raise ValueError(f"`cls` must be one class, got {list(classes)}: forget them one after the other")
        moving = {name: parameters[name] for name in outside_tables(model, parameters)}
        codes = ops.fingerprint([leaf.contiguous() for leaf in tensors_of(live.inputs)]).tolist()
        here.facts.update(
            {
                **settings,
                "`batch_size`": batch_size,
                "`cls`": classes,
                "`forgotten`": live.gone,
                "`mnemonic_codes`": codes,
            }
        )
        before = fingerprint(shards)
    logits = gather_logits(lambda some: _logits(model, some, group), live.inputs, batch_size)
    code_batch.check_outputs(logits, live)
    known = code_batch.batch(live, classes, log_odds(logits, live.labels), logits)
    _check_recognised(known, logits)
    found = _sensitivity(model, parameters, moving, known, group)
    stage, slope = _masked(model, shards, found, moving, known, rho, group)
    try:
        step = along(stage, slope, known, scale=found.scale, depth=depth, spill=spill, reach=reach)
        few = known.to_forget()
        odds = log_odds(stage.outputs(few.inputs), few.labels)
        if not float(few.least_forgotten(odds)) < 0:
            raise ForgettingError(  # noqa: TRY301 - the model is put back below
                "no step within reach forgets the codes and spares the remaining ones; another `rho`, or a larger "
                "`spill` or `reach`, may allow more; the model is unchanged"
            )
    except BaseException:
        stage.put_back()
        raise
    evidence = {
        "forget_log_odds_before": float(known.inside(known.odds).double().mean()),
        "forget_log_odds_after": float(odds.double().mean()),
    }
    facts = {"classes": classes, "settings": settings, "evidence": evidence}
    seconds = {"total": time.perf_counter() - started}
    reshard(model)
    return receipt_of(shards, stage.edits(), before, group, rule="natural", alpha=step.alpha, seconds=seconds, **facts)


class _ShardedStage(Stage):
    """A step on some elements of the shards themselves: there is no room for a copy to try it on."""

    def __init__(
        self,
        model: nn.Module,
        shards: nn.Module,
        targets: Mapping[str, Tensor],
        indices: Tensor,
        counts: Tensor,
        direction: Tensor,
        batch_size: int | None,
        group: dist.ProcessGroup | None,
    ) -> None:
        super().__init__(shards, dict(targets), batch_size)
        self._whole, self._group = model, group
        self._targets, self._indices, self._counts, self._direction = list(targets.values()), indices, counts, direction
        self._sizes = counts.tolist()
        parts = zip(self._targets, indices.split(self._sizes), strict=True)
        self._new = self._old = torch.cat([target.view(-1)[at] for target, at in parts])

    def put_back(self) -> None:
        """Write the values from before the first step."""
        self._write(self._old)

    def _run(self, inputs: Inputs) -> Tensor:
        return _logits(self._whole, inputs, self._group)

    def _move(self, alpha: float) -> None:
        # in the type of the sums, rounded once
        self._write((self._old.to(self._direction.dtype) + alpha * self._direction).to(self._old.dtype))

    def _write(self, values: Tensor) -> None:
        reshard(self._whole)  # what is gathered would not see it
        self._new = values
        ops.perturb_write(self._targets, self._indices, self._counts, values)
        torch.clear_autocast_cache()  # nor would casts

    def _edits(self) -> dict[str, Edit]:
        parts = (t.split(self._sizes) for t in (self._indices, self._old, self._new))
        found = zip(self.parameters.items(), *parts, strict=True)
        return {
            name: Edit.selected(tuple(target.shape), indices, old.clone(), new.clone())
            for (name, target), indices, old, new in found
            if len(new)
        }


def _logits(model: nn.Module, inputs: Inputs, group: dist.ProcessGroup | None) -> Tensor:
    """Run each rank's share of some samples; return the logits of all of them, the same bits on every rank."""
    ranks, rank = dist.get_world_size(group), dist.get_rank(group)
    samples = len(tensors_of(inputs)[0])
    size = -(-samples // ranks)
    # all ranks run as many, so that whoever has none left repeats the last
    rows = torch.arange(rank * size, (rank + 1) * size, device=tensors_of(inputs)[0].device).clamp(max=samples - 1)
    with torch.no_grad():
        share = pytree.tree_map_only(Tensor, lambda leaf: leaf.index_select(0, rows), inputs)
        mine = logits_of(forward(model, share))
    parts = gather(mine.reshape(-1), [mine.numel()] * ranks, group)
    return torch.cat(parts).view(ranks * size, -1)[:samples]


def _sensitivity(
    model: nn.Module,
    parameters: dict[str, DTensor],
    moving: Mapping[str, DTensor],
    known: CodeBatch,
    group: dist.ProcessGroup | None,
) -> Sensitivity:
    """f_CF, f_CR and g_CF of this rank's shards, the codes of each group divided among the ranks."""
    loss = ScaledCrossEntropy(known.scale)
    ranks, rank = dist.get_world_size(group), dist.get_rank(group)

    def run_of(rows: Sequence[int]) -> tuple[Run, int]:
        mine = rows[rank::ranks]
        inputs, labels = known.samples(mine or rows[:1])
        return Run(model, parameters, inputs, labels, loss, ranks, samples=len(mine)), -(-len(rows) // ranks)

    def mean(sums: Mapping[str, Tensor], rows: Sequence[int]) -> dict[str, Tensor]:
        return {name: sums[name].div_(len(rows)) for name in moving}

    forget, rounds = run_of(known.forget_rows)
    squares = mean(forget.squares(rounds), known.forget_rows)
    gradient = mean(forget.sums(), known.forget_rows)
    remain, rounds = run_of(known.remain_rows)
    return Sensitivity(squares, mean(remain.squares(rounds), known.remain_rows), gradient, loss.scale)


def _masked(
    model: nn.Module,
    shards: nn.Module,
    found: Sensitivity,
    parameters: Mapping[str, DTensor],
    known: CodeBatch,
    rho: float,
    group: dist.ProcessGroup | None,
) -> tuple[_ShardedStage, Tensor]:
    """The direction g_CF / (f_CR + eps) on the most sensitive elements, and the slope of the loss along it."""
    total = sum(parameter.numel() for parameter in parameters.values())
    ratios = found.ratios()
    scores = Shards.like([ratios[name] for name in parameters], list(parameters.values()), group)
    mine = selected_here(scores, count(float(rho), total), group)
    sums = _sum_of_ranks(torch.stack([found.remain[name].double().sum() for name in parameters]).sum(), group)
    stabiliser = max(0.1 * float(sums) / total, found.tiny)
    targets = {name: shards.get_parameter(name).detach() for name in parameters}
    like = scores.parts
    if mine:
        indices, counts = ops.select_indices(ops.select(like, mine)[0], like, mine)
    else:
        indices = like[0].new_empty(0, dtype=torch.int32)
        counts = indices.new_zeros(len(like), dtype=torch.int64)
    places = list(zip(parameters, indices.split(counts.tolist()), strict=True))
    gradients = found.gradient or {}
    gradient = torch.cat([gradients[name].view(-1)[at] for name, at in places])
    remain = torch.cat([found.remain[name].view(-1)[at] for name, at in places])
    direction = gradient / remain.add_(stabiliser)
    stage = _ShardedStage(model, shards, targets, indices, counts, direction, known.batch_size, group)
    return stage, _sum_of_ranks(gradient.double() @ direction.double(), group)


def _sum_of_ranks(value: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """A number's sum over ranks, in their order: the same bits on all of them, which then decide alike."""
    return torch.cat(gather(value.view(1), [1] * dist.get_world_size(group), group)).sum()


def _check_recognised(known: CodeBatch, logits: Tensor) -> None:
    if not bool(torch.isfinite(logits).all()):
        raise ValueError("`model` must give finite logits on the codes, got NaN or infinity")
    right = logits.argmax(1) == known.labels
    if float(right.float().mean()) < 0.5 or not bool(known.inside(right).all()):
        raise UnrecognisedCodesError(
            f"`mnemonic_codes` must be known to the model, but it recognises {float(right.float().mean()):.0%} of "
            "them, or not all of the class to forget"
        )


def _check_settings(settings: Mapping[str, Any]) -> None:
    for name, value in settings.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"`{name}` must be a number, got {type(value).__name__}")
        if not 0 < value < float("inf") or (name == "rho" and value > 1):
            raise ValueError(f"`{name}` must lie in (0, {'1]' if name == 'rho' else 'inf)'}, got {value}")
