"""Several classes, one after the other on a copy: each gets a step of its own length, on what the others left."""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import replace
from itertools import accumulate

import torch
from torch import Tensor, nn

from fastforget.class_forgetting.code_batch import CodeBatch
from fastforget.class_forgetting.natural_rule import take_natural_step
from fastforget.class_forgetting.sensitivity import measure_sensitivity
from fastforget.class_forgetting.settings import NaturalSettings
from fastforget.class_forgetting.stage import SparseStage, Step
from fastforget.classifier.devices import read_values
from fastforget.classifier.running import gather_logits, logits_of, run_isolated
from fastforget.edits.edit import write_edits

__all__ = ["take_steps_in_turn"]


def take_steps_in_turn(
    model: nn.Module,
    parameters: dict[str, Tensor],
    codes: CodeBatch,
    settings: NaturalSettings,
    *,
    moving: Collection[str],
) -> Step:
    """Take the natural step for each class in turn, and return all of it as one step.

    One common direction does not fit several classes: where it has made one class forgotten, another may hardly have
    moved, and what is needed for the latter breaks the rest. Here each class has its own direction and length. Its
    Fisher is that of the model that the classes before it left, and the codes of those no longer bind it.

    Args:
        model: The eager module, not changed.
        parameters: The parameters that are staged.
        codes: The codes. Their classes to forget are forgotten in that order.
        settings: Of each class; the classes share ``spill``.
        moving: As for `take_natural_step`.

    Returns:
        The staged step, of length 1.

    Raises:
        ForgettingError: There is no step for one of the classes.
    """
    scratch = copy.deepcopy(model)
    moved: dict[str, Tensor] = {name: value for name, value in scratch.named_parameters() if name in parameters}
    settings = replace(settings, spill=settings.spill / len(codes.class_rows))
    for place in range(len(codes.class_rows)):
        batch = codes.of_one_class(place)
        logits = gather_logits(lambda inputs: logits_of(run_isolated(scratch, inputs)), batch.inputs, batch.batch_size)
        batch = batch.examined_again(logits)
        ratios = measure_sensitivity(scratch, {name: moved[name] for name in moving}, batch).into_ratios()
        step = take_natural_step(scratch, moved, ratios, batch, settings, moving=moving)
        write_edits(scratch, step.stage.edits(), old=False)
    return _stage_difference(model, parameters, moved, codes.batch_size)


def _stage_difference(
    model: nn.Module, parameters: dict[str, Tensor], moved: dict[str, Tensor], batch_size: int | None
) -> Step:
    """Stage what two sets of parameters differ by."""
    pairs = [(value.detach().reshape(-1), moved[name].detach().reshape(-1)) for name, value in parameters.items()]
    changed = [old != new for old, new in pairs]
    counts = torch.stack([part.sum() for part in changed])
    sizes = [int(size) for size in read_values(counts)[0]]
    # Of all parameters at once: a device is waited for each time.
    positions = torch.cat(changed).nonzero().squeeze(1).split(sizes)
    starts = accumulate((len(part) for part in changed), initial=0)
    places = [position - start for position, start in zip(positions, starts, strict=False)]
    directions = []
    for (old, new), chosen in zip(pairs, places, strict=True):
        wide = torch.promote_types(old.dtype, torch.float32)
        directions.append(new[chosen].to(wide) - old[chosen].to(wide))
    indices, direction = torch.cat(places), torch.cat(directions)
    stage = SparseStage(model, parameters, parameters, indices, counts, direction, sizes, batch_size)
    stage.move(1.0)
    return Step(stage, 1.0)
