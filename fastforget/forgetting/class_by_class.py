"""Several classes, one after the other on a copy: each gets a step of its own length, on what the others left."""

from __future__ import annotations

import copy
from collections.abc import Collection
from itertools import accumulate

import torch
from torch import Tensor, nn

from fastforget.batch import logits_of
from fastforget.fisher import fisher_diagonal
from fastforget.forgetting.code_batch import CodeBatch, LiveCodes, batch
from fastforget.forgetting.micro_batches import gather_logits, mean_fisher
from fastforget.forgetting.rules import Step, natural
from fastforget.forgetting.sensitivity import Sensitivity
from fastforget.forgetting.staging import SparseStage, run
from fastforget.losses import ScaledCrossEntropy, log_odds
from fastforget.receipt import write
from fastforget.waiting import read

__all__ = ["group_sensitivity", "natural_in_turn"]


def group_sensitivity(
    model: nn.Module, parameters: dict[str, Tensor], known: CodeBatch, *, natural: bool = True
) -> Sensitivity:
    """Run all codes forward and backward, in the two groups: at once, or one group after the other in micro-batches.

    Args:
        model: The eager module.
        parameters: The parameters that may move.
        known: The codes.
        natural: For the natural rule: with a loss that resolves codes the model is sure of, and the gradient.

    Returns:
        f_CF, f_CR and, for the natural rule, g_CF.
    """
    loss = ScaledCrossEntropy(known.scale if natural else 1.0)
    if known.batch_size is None or known.batch_size >= len(known.labels):
        fisher = fisher_diagonal(
            model,
            known.inputs,
            known.labels,
            loss=loss,
            weights=known.groups,
            parameters=parameters,
            with_gradient=natural,
        )
        return Sensitivity.of_groups(fisher)
    forget, remain = (
        mean_fisher(
            model, known.samples, rows, known.batch_size, loss=loss, parameters=parameters, with_gradient=wanted
        )
        for rows, wanted in ((known.forget_rows, natural), (known.remain_rows, False))
    )
    return Sensitivity(dict(forget), dict(remain), forget.gradient, loss.scale)


def natural_in_turn(
    model: nn.Module,
    parameters: dict[str, Tensor],
    codes: LiveCodes,
    classes: tuple[int, ...],
    *,
    moving: Collection[str],
    rho: float,
    widen: float,
    depth: float,
    spill: float,
    reach: float,
) -> Step:
    """Take the natural step for each class in turn, and return all of it as one step.

    One common direction does not fit several classes: where it has made one class forgotten, another may hardly have
    moved, and what is needed for the latter breaks the rest. Here each class has its own direction and length, its
    Fisher is that of the model that the classes before it left, and the codes of those no longer bind it.

    Args:
        model: The eager module, not changed.
        parameters: The parameters that may move.
        codes: The codes of the classes that the model knows.
        classes: The classes to forget, in the order in which it is done.
        moving: As for `rules.natural`.
        rho: As for `rules.natural`; of each class.
        widen: As for `rules.natural`; of each class.
        depth: As for `rules.natural`.
        spill: As for `rules.natural`; of all steps together.
        reach: As for `rules.natural`; of each class.

    Returns:
        The staged step, of length 1.

    Raises:
        ForgettingError: There is no step for one of the classes.
    """
    scratch = copy.deepcopy(model)
    moved: dict[str, Tensor] = {name: value for name, value in scratch.named_parameters() if name in parameters}
    for place, cls in enumerate(classes):
        live = codes.without(classes[:place])
        logits = gather_logits(lambda some: logits_of(run(scratch, some)), live.inputs, live.batch_size)
        known = batch(live, (cls,), log_odds(logits, live.labels))
        found = group_sensitivity(scratch, {name: moved[name] for name in moving}, known)
        step = natural(
            scratch,
            moved,
            found,
            known,
            moving=moving,
            rho=rho,
            widen=widen,
            depth=depth,
            spill=spill / len(classes),
            reach=reach,
        )
        write(scratch, step.stage.edits(), old=False)
    return _difference(model, parameters, moved, codes.batch_size)


def _difference(
    model: nn.Module, parameters: dict[str, Tensor], moved: dict[str, Tensor], batch_size: int | None
) -> Step:
    """Stage what two sets of parameters differ by."""
    pairs = [(value.detach().reshape(-1), moved[name].detach().reshape(-1)) for name, value in parameters.items()]
    changed = [old != new for old, new in pairs]
    counts = torch.stack([part.sum() for part in changed])
    sizes = [int(size) for size in read(counts)[0]]
    everywhere = torch.cat(changed).nonzero().squeeze(1).split(sizes)  # at once: a device is waited for
    starts = accumulate((len(part) for part in changed), initial=0)
    places = [found - start for found, start in zip(everywhere, starts, strict=False)]
    directions = []
    for (old, new), at in zip(pairs, places, strict=True):
        wide = torch.promote_types(old.dtype, torch.float32)
        directions.append(new[at].to(wide) - old[at].to(wide))
    indices, direction = torch.cat(places), torch.cat(directions)
    stage = SparseStage(model, parameters, parameters, indices, counts, direction, sizes, batch_size)
    stage.step(1.0)
    return Step(stage, 1.0, stage.step)
