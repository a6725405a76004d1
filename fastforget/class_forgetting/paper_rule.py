"""The published rule: every parameter moves by its sensitivity ratio."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastforget.class_forgetting.code_batch import CodeBatch
from fastforget.class_forgetting.sensitivity import Ratios
from fastforget.class_forgetting.settings import PaperSettings
from fastforget.class_forgetting.stage import DenseStage, Step
from fastforget.classifier.devices import read_values

__all__ = ["take_paper_step"]


def take_paper_step(
    model: nn.Module, parameters: dict[str, Tensor], ratios: Ratios, codes: CodeBatch, settings: PaperSettings
) -> Step:
    r"""Move every parameter by its sensitivity ratio, all in one direction.

    ::

        eta_i = f_CF,i / f_CR,i        alpha_l = min(lambda1, lambda2 / max_{i in l} eta_i)
        w_i  <- w_i ± alpha_l eta_i

    Both signs are tried on the codes. The one with the larger sum of accuracy on the remaining codes and error on the
    forgotten ones is kept, minus on a tie.

    Source: Yamashita, Yamada, Shibata, "One-shot machine unlearning with mnemonic code", ACML 2024, Eq. 5-7. The
    square is inside the mean, as in Eq. 5; their Algorithm 2 differs. Stabilised as in the authors' description: both
    Fisher sums start at 1e-16 and the ratio is taken in logarithms.

    Args:
        model: The eager module.
        parameters: The parameters that move.
        ratios: Of these parameters; scaled in place, since they are as large as the model.
        codes: The codes.
        settings: lambda1, the bound on the scale in a tensor without sensitive parameters; lambda2, the largest change
            in a tensor with them.

    Returns:
        The staged step; ``alpha`` is +1 or -1.
    """
    directions = list(ratios.values.values())
    (largest,) = read_values(torch.stack([eta.max() for eta in directions]))
    for eta, most in zip(directions, largest, strict=True):
        eta.mul_(min(settings.lambda1, settings.lambda2 / most))
    stage = DenseStage(model, parameters, directions, codes.batch_size)

    def merit(sign: float) -> float:
        stage.move(sign)
        right = (stage.outputs(codes.inputs).argmax(1) == codes.labels).float()
        return float(codes.take_remain(right).mean() - codes.take_forget(right).mean())

    sign = 1.0 if merit(1.0) > merit(-1.0) else -1.0
    if sign > 0:  # minus was tried last
        stage.move(sign)
    return Step(stage, sign)
