"""The diagonal Fisher of layers' parameters, from activations and gradients.

Every operator adds to its results in place, for each group g; with ``overwrite`` some write them instead::

    fisher[g]   += sum_n weights[g, n] * c_n ** 2
    gradient[g] += sum_n weights[g, n] * c_n

where c_n is the gradient of sample n's loss with respect to one parameter. Results are contiguous, float32
(float64 for float64 inputs), and either may be None.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastforget.ops.library import operators, register_fake

__all__ = ["fisher_affine", "fisher_convolution", "fisher_embedding", "fisher_linear"]


def fisher_linear(
    grad: Tensor,
    input: Tensor,
    weights: Tensor,
    fisher: Tensor | None,
    gradient: Tensor | None = None,
    *,
    bias_fisher: Tensor | None = None,
    bias_gradient: Tensor | None = None,
    overwrite: bool = False,
    tf32: bool | None = None,
) -> None:
    """Add the diagonal Fisher of a linear weight: ``c_n = grad[n].T @ input[n]``.

    Args:
        grad: Gradient with respect to the layer's output, [N, T, O], any strides.
        input: The layer's input, [N, T, I], any strides, dtype of ``grad``.
        weights: Per-sample weights, [G, N].
        fisher: [G, O, I], added to in place.
        gradient: [G, O, I], added to in place.
        bias_fisher: [G, O], added to in place: the Fisher of a bias, ``c_n = grad[n].sum(0)``, in the same pass. Only
            together with ``fisher``, and for I > 0.
        bias_gradient: [G, O], the same for ``gradient``.
        overwrite: ``fisher`` and ``gradient`` hold nothing yet and are written, not read.
        tf32: On CUDA, float32 operands may be rounded to tf32 (ten bits of fraction) before they are multiplied. The
            default is PyTorch's own setting, ``torch.backends.cuda.matmul.fp32_precision``.
    """
    if tf32 is None:
        tf32 = grad.is_cuda and torch.backends.cuda.matmul.fp32_precision == "tf32"
    operators.fisher_linear(grad, input, weights, fisher, gradient, bias_fisher, bias_gradient, overwrite, tf32)


def fisher_convolution(
    grad: Tensor,
    input: Tensor,
    weights: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    fisher: Tensor | None,
    gradient: Tensor | None = None,
    *,
    bias_fisher: Tensor | None = None,
    bias_gradient: Tensor | None = None,
    overwrite: bool = False,
    tf32: bool | None = None,
) -> None:
    """Add the diagonal Fisher of a 1-D, 2-D or 3-D convolution's weight.

    A transposed convolution is the same sum with ``grad`` and ``input`` exchanged.

    Args:
        grad: Gradient with respect to the layer's output, [N, O, *out].
        input: The layer's input, [N, I, *in].
        weights: Per-sample weights, [G, N].
        stride: One value per spatial dimension.
        padding: Zeros on both sides, one value per spatial dimension.
        dilation: One value per spatial dimension.
        groups: Number of convolution groups.
        fisher: [G, O, I / groups, *kernel], added to in place.
        gradient: The same shape, added to in place.
        bias_fisher: [G, O], as for `fisher_linear`.
        bias_gradient: [G, O], as for `fisher_linear`.
        overwrite: As for `fisher_linear`.
        tf32: As for `fisher_linear`; the default is ``torch.backends.cudnn.conv.fp32_precision``.
    """
    if tf32 is None:
        tf32 = grad.is_cuda and torch.backends.cudnn.conv.fp32_precision == "tf32"  # type: ignore[attr-defined]
    spatial = (list(stride), list(padding), list(dilation))
    biases = (bias_fisher, bias_gradient)
    operators.fisher_convolution(grad, input, weights, *spatial, groups, fisher, gradient, *biases, overwrite, tf32)


def fisher_affine(
    grad: Tensor,
    input: Tensor | None,
    mean: Tensor | None,
    rstd: Tensor | None,
    weights: Tensor,
    *,
    scale_fisher: Tensor | None = None,
    scale_gradient: Tensor | None = None,
    shift_fisher: Tensor | None = None,
    shift_gradient: Tensor | None = None,
) -> None:
    """Add the diagonal Fisher of a shift and a scale (norms, biases, broadcast sums and products).

    For the shift ``c_n[p] = sum_ab grad[n, a, p, b]``; for the scale
    ``c_n[p] = sum_ab grad[n, a, p, b] * (input[n, a, p, b] - mean[n, a, p]) * rstd[n, a, p]``.

    Args:
        grad: [N, A, P, B], any strides.
        input: [N, A, P, B], needed for a scale.
        mean: [N, A, P] (expanded views are fine) or None for 0.
        rstd: [N, A, P] or None for 1.
        weights: Per-sample weights, [G, N].
        scale_fisher: [G, P], added to in place.
        scale_gradient: [G, P], added to in place.
        shift_fisher: [G, P], added to in place.
        shift_gradient: [G, P], added to in place.
    """
    operators.fisher_affine(
        grad, input, mean, rstd, weights, scale_fisher, scale_gradient, shift_fisher, shift_gradient
    )


def fisher_embedding(
    grad: Tensor,
    tokens: Tensor,
    weights: Tensor,
    padding_idx: int,
    fisher: Tensor | None,
    gradient: Tensor | None = None,
) -> None:
    """Add the diagonal Fisher of an embedding table; repeated tokens are summed before the square.

    Args:
        grad: Gradient with respect to the looked-up rows, [N, T, D], any strides.
        tokens: int64 [N, T] in [0, V).
        weights: Per-sample weights, [G, N].
        padding_idx: Token without a gradient; -1 for none.
        fisher: [G, V, D], added to in place.
        gradient: [G, V, D], added to in place.
    """
    operators.fisher_embedding(grad, tokens, weights, padding_idx, fisher, gradient)


def _fake(*_args: object) -> None:
    """Return nothing: results are written in place."""


for _name in __all__:
    register_fake(_name, _fake)
