"""What a receipt says of an edit: what the step and the output layer did."""

from __future__ import annotations

import torch
from torch import Tensor

from fastforget.class_forgetting.code_batch import CodeBatch
from fastforget.class_forgetting.output_layer import OutputChange
from fastforget.class_forgetting.stage import Stage
from fastforget.classifier.devices import read_values
from fastforget.classifier.inputs import Inputs
from fastforget.classifier.losses import depth_beyond_boundary, log_odds
from fastforget.errors import ForgettingError

__all__ = ["read_evidence"]


def read_evidence(
    change: OutputChange, stage: Stage, own: Inputs | None, codes: CodeBatch | None, trial_codes: CodeBatch | None
) -> dict[str, float]:
    """Return what the step did to the codes, and the output layer to the classes; the host waits once for all of it.

    Args:
        change: What was done to the output layer.
        stage: The parameters after the edit.
        own: Samples of the forgotten classes; None for their codes, if there are any.
        codes: The codes before the edit; None without codes.
        trial_codes: Those that were run after it: all, or those to forget; None without codes.

    Returns:
        The log-odds of `Receipt`, those of the forgotten codes by the step alone, without the output layer;
        ``silenced_by``, ``disconnected``, ``output_depth`` and ``output_depth_goal``.

    Raises:
        ForgettingError: Logits are not finite.
    """
    values: dict[str, Tensor] = {}
    finite: list[Tensor] = []
    if codes is not None and trial_codes is not None:
        values = _of_codes(codes, trial_codes, stage)
        finite.append(torch.isfinite(stage.outputs(trial_codes.inputs)).all())
    evidence = {"silenced_by": change.silenced_by, "disconnected": float(change.claim == "disconnected")}
    if change.claim:
        values |= dict.fromkeys(
            ("output_depth", "output_depth_goal"),
            torch.as_tensor(change.depth, dtype=torch.float64, device=change.classes.device),
        )
        logits = _of_own(stage, own, trial_codes)
        if logits is not None:
            values["output_depth"] = depth_beyond_boundary(logits, change.classes)
            finite.append(torch.isfinite(logits).all())
    if values:
        found = torch.stack(finite).all() if finite else change.classes.new_ones(())
        is_finite, *numbers = read_values(found, *values.values())
        if not is_finite[0]:
            raise ForgettingError("the step leads to NaN or infinite logits on the codes; the model is unchanged")
        evidence |= {name: number for name, (number,) in zip(values, numbers, strict=True)}
    return {**evidence, **(codes.usage() if codes is not None else {})}


def _of_own(stage: Stage, own: Inputs | None, trial_codes: CodeBatch | None) -> Tensor | None:
    if own is not None:
        return stage.outputs(own)
    return None if trial_codes is None else trial_codes.take_forget(stage.outputs(trial_codes.inputs))


def _of_codes(codes: CodeBatch, trial_codes: CodeBatch, stage: Stage) -> dict[str, Tensor]:
    with stage.step_alone():
        by_step = stage.outputs(trial_codes.inputs)
    logits = stage.outputs(trial_codes.inputs)
    parts = {
        "forget_log_odds_before": codes.take_forget(codes.log_odds),
        "forget_log_odds_after": trial_codes.take_forget(log_odds(by_step, trial_codes.labels)),
        "remain_log_odds_before": codes.take_remain(codes.log_odds),
        "remain_log_odds_after": trial_codes.take_remain(log_odds(logits, trial_codes.labels)),
    }
    values = {name: odds.double().mean() for name, odds in parts.items() if len(odds)}
    if trial_codes.remain_rows:
        values["remain_log_odds_lost"] = trial_codes.log_odds_lost(logits).max()
    return values
