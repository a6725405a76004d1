"""Suppression of the directions of each layer's inputs that only the samples to forget have."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeAlias, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastforget.baselines.editing import editing
from fastforget.baselines.training import trained_parameters
from fastforget.classifier.data_forms import LabelledData
from fastforget.classifier.labelled_batches import RepeatableBatches
from fastforget.classifier.predictions import measure_accuracy
from fastforget.classifier.running import forward
from fastforget.edits.receipt import Receipt

__all__ = ["class_svd"]

Layer: TypeAlias = nn.Linear | nn.Conv2d

_ALPHAS = (10.0, 30.0, 100.0, 300.0, 1000.0)  # tried for what remains


def class_svd(model: nn.Module, forget: LabelledData, remain: LabelledData, *, alpha_forget: float = 3.0) -> Receipt:
    """Suppress what the inputs of each layer have of the class to forget and of no other, without gradients.

    For every linear layer and convolution, from the singular vectors U and values s of its inputs, on both parts::

        P = U diag(alpha s_i^2 / ((alpha - 1) s_i^2 + 1)) U^T,  with sum_i s_i^2 = 1
        W <- W (I - P_f (I - P_r))^T

    alpha_r is the one of 10, 30, 100, 300 and 1000 with the largest ``Acc(D_r) (1 - Acc(D_f))`` afterwards.

    Source: Kodge, Saha, Roy, "Deep Unlearning: Fast and Efficient Gradient-Free Class Forgetting", TMLR 2024. They draw
    some samples of each part; here all that are given are used. Convolutions with groups, or with padding other than
    with zeros, are left as they are.

    Args:
        model: The classifier, changed in place; in eval mode meanwhile.
        forget: Batches to forget.
        remain: Batches of the remaining data.
        alpha_forget: How far the weaker directions of the samples to forget count.

    Returns:
        The receipt.

    Raises:
        ValueError: There is no such layer, or an input is not finite.
    """
    gone, kept = RepeatableBatches(forget, "forget"), RepeatableBatches(remain, "remain")
    with editing("class_svd", model, 0, train=False, alpha_forget=alpha_forget) as edit:
        trained_parameters(edit.model)
        layers = [module for module in edit.model.modules() if _fits(module)]
        of_forget, of_remain = (_moments(edit.model, layers, batches) for batches in (gone, kept))
        weights = {layer: layer.weight.detach().clone() for layer in layers if layer in of_forget}
        if not weights:
            raise ValueError("`model` must have a linear layer or a convolution that may move, got none")
        best, chosen = -1.0, weights
        for alpha in _ALPHAS:
            tried = {
                layer: _suppressed(weight, of_forget[layer], of_remain[layer], alpha_forget, alpha)
                for layer, weight in weights.items()
            }
            _write(tried)
            score = measure_accuracy(edit.model, kept, "remain") * (1 - measure_accuracy(edit.model, gone, "forget"))
            if score > best:
                best, chosen = score, tried
        _write(chosen)
    return edit.receipt


def _fits(module: nn.Module) -> TypeGuard[Layer]:
    if isinstance(module, nn.Conv2d):
        plain = module.groups == 1 and module.padding_mode == "zeros" and not isinstance(module.padding, str)
        return plain and module.weight.requires_grad
    return isinstance(module, nn.Linear) and module.weight.requires_grad


@torch.no_grad()
def _moments(model: nn.Module, layers: Sequence[Layer], batches: RepeatableBatches) -> dict[Layer, Tensor]:
    """Return the second moments of the inputs of each layer that is called, sum of x x^T, float64 [I, I].

    Their eigenvectors and eigenvalues are the singular vectors and the squares of the singular values of the inputs.

    Raises:
        ValueError: An input is not finite.
    """
    moments: dict[Layer, Tensor] = {}

    def add(layer: Layer, inputs: tuple[Tensor, ...]) -> None:
        rows = _rows(layer, inputs[0]).double()
        moments[layer] = moments.get(layer, 0) + rows.T @ rows

    with _hooked(layers, add):
        for inputs, _ in batches:
            forward(model, inputs)
    for moment in moments.values():
        if not bool(moment.isfinite().all()):
            raise ValueError(f"`{batches.name}` must lead to finite inputs of all layers, got NaN or infinity")
    return moments


@contextmanager
def _hooked(layers: Sequence[Layer], hook: Callable[..., None]) -> Iterator[None]:
    handles = [layer.register_forward_pre_hook(hook) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _rows(layer: Layer, x: Tensor) -> Tensor:
    """Return what the weight of a layer is multiplied with, a row for each place: [N, I]."""
    if isinstance(layer, nn.Conv2d):
        batch = x if x.dim() == 4 else x[None]
        patches = F.unfold(batch, layer.kernel_size, layer.dilation, layer.padding, layer.stride)  # type: ignore[arg-type]
        return patches.transpose(1, 2).flatten(0, 1)
    return x.reshape(-1, x.shape[-1])


def _suppressed(weight: Tensor, forget: Tensor, remain: Tensor, alpha_forget: float, alpha_remain: float) -> Tensor:
    both = _projection(forget, alpha_forget), _projection(remain, alpha_remain)
    one = torch.eye(len(forget), dtype=forget.dtype, device=forget.device)
    kept = one - both[0] @ (one - both[1])
    return (weight.flatten(1).double() @ kept.T).view_as(weight).to(weight.dtype)


def _projection(moment: Tensor, alpha: float) -> Tensor:
    """Return U diag(alpha s^2 / ((alpha - 1) s^2 + 1)) U^T from a second moment."""
    squares, vectors = torch.linalg.eigh(moment)
    squares = squares.clamp(min=0)
    shares = squares / squares.sum().clamp(min=torch.finfo(squares.dtype).tiny)
    projection: Tensor = (vectors * (alpha * shares / ((alpha - 1) * shares + 1))) @ vectors.T
    return projection


@torch.no_grad()
def _write(weights: Mapping[Layer, Tensor]) -> None:
    for layer, weight in weights.items():
        layer.weight.copy_(weight)
