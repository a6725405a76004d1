"""The samples of one computation, with their weights."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fastforget.classifier.devices import DeferredChecks
from fastforget.classifier.inputs import Inputs
from fastforget.fisher.dtypes import sum_dtype

__all__ = ["WeightedSamples", "weights_by_group"]


@dataclass(frozen=True, eq=False)
class WeightedSamples:
    """Samples, with the weight of each gradient that is squared: one per sample, or one per batch.

    Attributes:
        inputs: What the model takes, leaves [N, ...], without gradients.
        targets: What the loss takes beside the outputs, without gradients.
        count: N.
        weights: [G, N] for G groups, or [1, B] for B batches; divided by their sum for a mean.
        weight_sums: The sums of the weights before that, float64 [G].
    """

    inputs: Inputs
    targets: Any
    count: int
    weights: Tensor
    weight_sums: Tensor

    @classmethod
    def prepare(cls, inputs: Inputs, targets: Any, count: int, weights: Tensor, *, mean: bool) -> WeightedSamples:
        """Detach everything; for a mean divide the weights, which is less work than to divide the results.

        Args:
            inputs: What the model takes.
            targets: What the loss takes.
            count: N.
            weights: [G, N] or [1, B], as given.
            mean: Whether the mean is wanted, or the sum.

        Returns:
            The samples.
        """
        inputs, targets, weights = pytree.tree_map_only(Tensor, _savable, (inputs, targets, weights))
        weight_sums = weights.double().sum(1)
        if mean:
            weights = (weights.double() / weight_sums[:, None]).to(weights.dtype)
        return cls(inputs, targets, count, weights, weight_sums)


def weights_by_group(weights: Tensor | None, count: int, parameter: Tensor, checks: DeferredChecks) -> Tensor:
    """Return the argument ``weights`` of `fisher_diagonal` as [G, N], ones if it was left out.

    Args:
        weights: [N] or [G, N], or None.
        count: N, or the number of batches.
        parameter: Any of the parameters, whose device and type decide those of the result.
        checks: Takes the conditions on the values.

    Returns:
        The weights in the type of the sums.

    Raises:
        ValueError: They have another shape, or are negative, not finite, or all zero in a group.
    """
    dtype = sum_dtype(parameter.dtype)
    if weights is None:
        return torch.ones(1, count, dtype=dtype, device=parameter.device)
    if weights.dim() not in (1, 2) or weights.shape[-1] != count or weights.numel() == 0:
        raise ValueError(f"`weights` must have shape ({count},) or (G, {count}), got {tuple(weights.shape)}")
    weights = weights.detach().to(dtype=dtype, device=parameter.device).reshape(-1, count).contiguous()

    def refuse_values() -> None:
        raise ValueError("`weights` must be finite and not negative")

    def refuse_zeros() -> None:
        raise ValueError("`weights` must have a positive sum in every group")

    checks.add((torch.isfinite(weights) & (weights >= 0)).all(), bool, refuse_values)
    checks.add((weights.sum(1) == 0).any(), operator.not_, refuse_zeros)
    return weights


def _savable(tensor: Tensor) -> Tensor:
    """Return a tensor without a gradient that autograd may save; one made under inference mode is copied."""
    return tensor.clone() if tensor.is_inference() else tensor.detach()
