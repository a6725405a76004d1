"""The level "features" of a request: real samples of each class take the class out of the features, too."""

from __future__ import annotations

import torch

from fastforget.class_forgetting.dispersal import disperse
from fastforget.class_forgetting.request import ClassRequest
from fastforget.class_forgetting.stage import DenseStage, Step
from fastforget.classifier.inputs import transform
from fastforget.classifier.output_layer import look_for_output_layer
from fastforget.errors import ForgettingError

__all__ = ["disperse_features"]

# Part of the way to the features of other classes that may be left: with less the class is nearer to these than to
# where it was.
_LEFT = 0.5
_FINDING = 8  # samples on which the output layer is looked for


def disperse_features(request: ClassRequest, step: Step, *, progress: bool) -> tuple[Step, dict[str, float]]:
    """Disperse the features of the classes to forget, from where a step left the parameters.

    Args:
        request: The request, with labelled samples.
        step: The step in the body; a standstill without codes.
        progress: Whether to show a bar.

    Returns:
        Both as one step of length 1, and the evidence: that of `Dispersal`, ``dispersed``, ``features_left`` and
        ``features_left_goal``, see `Receipt`.

    Raises:
        ForgettingError: The model has no linear output layer, or its features cannot be dispersed.
        ValueError: There are samples of fewer than two other classes.
    """
    stage, samples = step.stage, request.samples
    assert samples is not None and samples.targets is not None  # noqa: S101, PT018 - the level was checked
    few = min(_FINDING, request.batch_size or _FINDING)
    layer = look_for_output_layer(request.model, transform(lambda leaf: leaf[:few], samples.inputs), stage.values)
    if isinstance(layer, str):
        raise ForgettingError(
            '`level="features"` needs a linear layer that produces the logits, but there is none, because '
            f"{layer}; the model is unchanged"
        )
    moving = {name: stage.parameters[name] for name in request.scope.moving}
    found = disperse(
        request.model,
        moving,
        layer,
        samples.inputs,
        samples.targets,
        request.classes,
        batch_size=request.batch_size,
        progress=progress,
    )
    directions = []
    for name, value in request.scope.staged.items():
        wide = torch.promote_types(value.dtype, torch.float32)
        directions.append(found.parameters.get(name, stage.parameters[name]).to(wide) - value.detach().to(wide))
    both = DenseStage(request.model, request.scope.staged, directions, request.batch_size)
    both.move(1.0)
    before, after = (found.evidence[f"distance_{when}"] for when in ("before", "after"))
    left = after / before if before > 0 else 0.0  # features that do not differ are where they shall be
    evidence = {
        **found.evidence,
        "dispersed": float(left <= _LEFT),
        "features_left": left,
        "features_left_goal": _LEFT,
    }
    return Step(both, 1.0), evidence
