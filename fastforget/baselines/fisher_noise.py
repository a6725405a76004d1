"""Noise on the weights that the remaining data does not depend on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastforget.baselines.batches import mean_over_batches
from fastforget.baselines.editing import editing
from fastforget.baselines.layers import output_layer
from fastforget.baselines.training import teacher_outputs
from fastforget.classifier.data_forms import LabelledData
from fastforget.classifier.inputs import Inputs
from fastforget.classifier.labelled_batches import sized_batches
from fastforget.edits.receipt import Receipt
from fastforget.fisher.compute import fisher_diagonal

__all__ = ["fisher_forgetting"]

_LARGEST = 1e3  # of the inverse Fisher


def fisher_forgetting(
    model: nn.Module, forget: LabelledData, remain: LabelledData, *, alpha: float = 1e-6, seed: int = 0
) -> Receipt:
    """Add noise to each weight; the less the remaining data depends on a weight, the more.

    ``theta_i <- theta_i + sqrt(alpha min(1 / F_i, 1000)) n_i``, where n is standard normal and F the per-sample Fisher
    of the remaining data under the model's own labels. The variance is ten times as large in the last layer and in
    parameters of one dimension. If ``forget`` holds a single class, its row of the last layer is set to zero before.

    Source: Golatkar, Achille, Soatto, "Eternal Sunshine of the Spotless Net", CVPR 2020, with the constants of their
    code but without its special treatment of each layer's mean and of the last layer's bounds.

    Args:
        model: The classifier, changed in place; in eval mode meanwhile.
        forget: Batches to forget; only their classes matter.
        remain: Batches of the remaining data.
        alpha: Scale of the variance.
        seed: Of the noise.

    Returns:
        The receipt.
    """
    with editing("fisher_forgetting", model, seed, train=False, alpha=alpha) as edit:

        def fisher_of(inputs: Inputs, _: Tensor) -> dict[str, Tensor]:
            return fisher_diagonal(edit.model, inputs, labels="expectation")

        fisher, _ = mean_over_batches(remain, "remain", fisher_of, per_sample=True)
        gone, classes = _classes(edit.model, forget)
        _, _, last = output_layer(edit.model, classes)
        heads = {id(parameter) for parameter in last.parameters()}
        with torch.no_grad():
            if len(gone) == 1:
                for parameter in last.parameters():
                    parameter[gone] = 0
            for name, parameter in edit.model.named_parameters():
                variance = alpha * fisher[name].reciprocal().clamp(max=_LARGEST)
                if id(parameter) in heads or parameter.dim() == 1:
                    variance *= 10
                parameter.add_(variance.sqrt().to(parameter.dtype) * torch.randn_like(parameter))
    return edit.receipt


def _classes(model: nn.Module, forget: LabelledData) -> tuple[list[int], int]:
    """Return the classes to forget, and how many there are in all."""
    gone, classes = set[int](), 0
    for inputs, targets in sized_batches(forget, "forget"):
        gone.update(targets.tolist())
        classes = classes or teacher_outputs(model, inputs).shape[1]
    return sorted(gone), classes
