"""The floor: an accuracy on validation samples of the remaining classes that the edit must keep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fastforget.class_forgetting.code_batch import CodeBatch
from fastforget.class_forgetting.output_layer import OutputChange
from fastforget.class_forgetting.request import ClassRequest
from fastforget.class_forgetting.stage import Stage, Step
from fastforget.classifier.devices import DeferredChecks, upload
from fastforget.classifier.fitting import checked_logits
from fastforget.classifier.inputs import check_finite
from fastforget.classifier.running import gather_logits
from fastforget.classifier.validation import ValidationFloor, check_floor
from fastforget.errors import ForgettingError

__all__ = ["RemainingFloor", "back_off", "check_remaining_floor"]

_BACK_OFF, _BACK_OFFS = 0.8, 40


@dataclass(frozen=True, eq=False)
class RemainingFloor:
    """Validation samples, of which those of remaining classes count.

    Attributes:
        validation: The samples and the least accuracy.
        remain: Whether a sample is of a remaining class, bool [N].
    """

    validation: ValidationFloor
    remain: Tensor

    def accuracy(self, stage: Stage) -> float:
        """Return the staged model's accuracy on the samples of remaining classes, in [0, 1]."""
        right = (stage.outputs(self.validation.inputs).argmax(1) == self.validation.targets) & self.remain
        return float(right.sum().double() / self.remain.sum())


def check_remaining_floor(floor: object, request: ClassRequest) -> RemainingFloor:
    """Check the argument ``floor`` against a request.

    Args:
        floor: (inputs, targets, accuracy).
        request: The request, whose model takes the inputs.

    Returns:
        The samples where the model is.

    Raises:
        TypeError: It is something else, or its parts are.
        ValueError: The model does not take the samples, or none is of a remaining class.
    """
    device = next(iter(request.scope.allowed.values())).device
    validation = check_floor(floor, device)
    checks = DeferredChecks()
    check_finite(validation.inputs, checks)
    gather_logits(lambda inputs: checked_logits(request.model, inputs, "floor"), validation.inputs, request.batch_size)
    # Samples of classes forgotten earlier cannot be right, and are no reason to shorten this step.
    remain = torch.isin(validation.targets, upload(list(request.remaining), device))

    def complain() -> None:
        raise ValueError("`floor` must hold samples of remaining classes, got none")

    checks.add(remain.any(), bool, complain)
    checks.finish()
    return RemainingFloor(validation, remain)


def back_off(
    step: Step,
    change: OutputChange,
    codes: CodeBatch | None,
    floor: RemainingFloor,
    refit: Callable[[OutputChange, float], OutputChange],
) -> tuple[float, OutputChange]:
    """Shorten a step until the floor holds, with the codes still forgotten.

    Args:
        step: The step; it is left as short as need be.
        change: What was done to the output layer.
        codes: The codes to forget, or all; None without codes.
        floor: The floor.
        refit: Fits the change to the step scaled by a factor, and stages it.

    Returns:
        The factor by which the step is shorter now, and the change that fits it.

    Raises:
        ForgettingError: No step holds the floor and forgets the codes.
    """
    factor, best, least = 1.0, 0.0, floor.validation.accuracy
    to_forget = None if codes is None else codes.to_forget
    for _ in range(_BACK_OFFS):
        if to_forget is not None and not to_forget.beyond_boundary(step.stage.outputs(to_forget.inputs)):
            break
        accuracy = floor.accuracy(step.stage)
        if accuracy >= least:
            return factor, change
        best = max(best, accuracy)
        factor *= _BACK_OFF
        step.retake(factor)
        change = refit(change, factor)
    raise ForgettingError(
        f"no step that forgets the codes keeps an accuracy of {least:.3f} on the remaining classes of `floor`; the "
        f"best was {best:.3f}, and the model is unchanged"
    )
