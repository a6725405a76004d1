"""What a request does to the output layer after its step."""

from __future__ import annotations

from dataclasses import replace

from fastforget.class_forgetting.code_batch import CodeBatch
from fastforget.class_forgetting.drift import bearable_drift
from fastforget.class_forgetting.output_layer import Calibration, OutputChange, disconnect_classes
from fastforget.class_forgetting.request import ClassRequest
from fastforget.class_forgetting.stage import Stage
from fastforget.classifier.devices import upload
from fastforget.classifier.inputs import Inputs
from fastforget.errors import ForgettingError

__all__ = ["change_output", "recalibrate"]


def change_output(
    request: ClassRequest, stage: Stage, codes: CodeBatch | None, trial_codes: CodeBatch | None, depth: float | None
) -> OutputChange:
    """Change the output layer if that is wanted, and check that the codes are forgotten now.

    Args:
        request: What was asked for.
        stage: The parameters, with the step taken.
        codes: The codes; None without.
        trial_codes: Those that were run with the step: all, or those to forget.
        depth: See `disconnect_classes`.

    Returns:
        The change, staged.

    Raises:
        ForgettingError: There is nothing to change and this was asked for, or codes of a class are not forgotten.
    """
    change = OutputChange(upload(request.classes, next(iter(stage.parameters.values())).device).long())
    if request.changes_output:
        samples, own = _calibrating(request, stage, codes, trial_codes)
        drift = None
        if trial_codes is not None and request.level != "output":
            drift = bearable_drift(trial_codes, stage.outputs(trial_codes.inputs), request.spill)
        change = disconnect_classes(stage, samples, own, request.classes, request.remaining, depth, drift)
    if not change.claim and (request.output_row or request.level == "output"):
        raise ForgettingError(
            "`output_row` needs a linear layer that produces the logits, or an output bias, among the parameters that "
            f"may move, but there is none, because {change.reason}; the model is unchanged"
        )
    examined = trial_codes if request.natural else None
    if examined is not None and not examined.beyond_boundary(stage.outputs(examined.inputs)):
        raise ForgettingError(
            "no step within reach forgets the codes and spares the remaining ones; another `rho`, or a larger "
            "`spill` or `reach`, may allow more; the model is unchanged"
        )
    return change


def recalibrate(
    change: OutputChange,
    factor: float,
    *,
    request: ClassRequest,
    stage: Stage,
    codes: CodeBatch | None,
    trial_codes: CodeBatch | None,
) -> OutputChange:
    """Fit what was done to the output layer to the same step, but scaled by a factor.

    Args:
        change: What was done to it.
        factor: The factor.
        request: What was asked for.
        stage: The parameters, with the scaled step taken.
        codes: The codes; None without.
        trial_codes: Those that are run with the step.

    Returns:
        The change, staged: rows fit the features as they are with this step.
    """
    if change.rows is not None:
        samples, own = _calibrating(request, stage, codes, trial_codes)
        found = disconnect_classes(stage, samples, own, request.classes, request.remaining, change.depth)
        change = found.with_drift(change.drift) if found.rows is not None else change
    change.write(stage, factor)
    return change


def _calibrating(
    request: ClassRequest, stage: Stage, codes: CodeBatch | None, trial_codes: CodeBatch | None
) -> tuple[Calibration, Calibration | None]:
    """Run and return samples of remaining classes and of those to forget: real ones where there are any, else codes.

    Returns:
        Both; where the codes of both kinds are run with the step, rows of one run.
    """

    def examine(inputs: Inputs) -> Calibration:
        return Calibration(inputs, stage.examine(inputs, request.total))

    given = request.samples
    if given is not None:
        own = given.of(request.classes) if given.hold_all(request.classes) else None
        own = own if own is not None or codes is None else codes.to_forget.inputs
        return examine(given.without(request.classes)), None if own is None else examine(own)
    assert codes is not None  # noqa: S101 - a request has codes or samples
    if trial_codes is None or not trial_codes.remain_rows:
        return examine(codes.samples(codes.calibrating_rows)[0]), examine(codes.to_forget.inputs)
    whole = examine(trial_codes.inputs)
    return replace(whole, rows=trial_codes.calibrating_rows), replace(whole, rows=trial_codes.forget_rows)
