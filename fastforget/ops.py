"""The operators of ``torch.ops.fastforget``: what they compute, and on which shapes.

Shape alphabet: N samples, G groups of per-sample weights, T positions (time or space), O / I features
out / in, P parameters, L tensors of a list, K tasks. Operators check shapes and types in C++ and raise
``RuntimeError``; the public functions of the package check earlier and in the caller's words. All tensors of a
call are on one device, where it runs: the CPU, or if `cuda_built` a CUDA device, on its current stream and without
waiting for it.

Every ``fisher_*`` operator adds to its results in place (or writes them, where it says so), for each group g::

    fisher[g]   += sum_n weights[g, n] * c_n ** 2
    gradient[g] += sum_n weights[g, n] * c_n

where c_n is the gradient of sample n's loss with respect to one parameter. Results are float32, or
float64 for float64 inputs, contiguous, and either may be None.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastforget import cuda_library, fakes

try:
    from fastforget import _C
except ImportError as error:  # a missing kernel is never papered over
    raise ImportError(
        "fastforget's compiled operators are missing; build them with "
        "`pip install --no-build-isolation -e .` in the source tree, or install a wheel"
    ) from error

__all__ = [
    "cuda_built",
    "fingerprint",
    "fisher_affine",
    "fisher_convolution",
    "fisher_embedding",
    "fisher_linear",
    "perturb",
    "perturb_undo",
    "perturb_write",
    "project_combine",
    "project_gram",
    "project_weights",
    "select",
    "select_histogram",
    "select_indices",
    "select_mask",
    "simd_level",
]

_ops = torch.ops.fastforget
fakes.register()
cuda_library.load()


def cuda_built() -> bool:
    """Return whether the operators run on CUDA devices.

    They do if fastforget was built with ``FASTFORGET_CUDA=1``, and PyTorch saw a device when it was imported.
    """
    return cuda_library.loaded()


def simd_level() -> str:
    """Return the instruction set in use: ``"avx512"``, ``"avx2"`` or ``"generic"``.

    The best the processor has, or less by the environment variable ``FASTFORGET_SIMD``, read once when
    the first kernel runs.
    """
    return str(_C.simd_level())


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
        bias_fisher: [G, O], added to in place: that of a bias, ``c_n = grad[n].sum(0)``, in the same pass. Only beside
            ``fisher``, and for I > 0.
        bias_gradient: [G, O], likewise beside ``gradient``.
        overwrite: ``fisher`` and ``gradient`` hold nothing yet and are written, not read.
        tf32: On CUDA, float32 operands may be rounded to tf32, ten bits of fraction, before they are multiplied; by
            default as PyTorch's own setting says, ``torch.backends.cuda.matmul.fp32_precision``.
    """
    if tf32 is None:
        tf32 = grad.is_cuda and torch.backends.cuda.matmul.fp32_precision == "tf32"
    _ops.fisher_linear(grad, input, weights, fisher, gradient, bias_fisher, bias_gradient, overwrite, tf32)


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
        bias_fisher: [G, O], and the two after it: as for `fisher_linear`.
        bias_gradient: [G, O].
        overwrite: Write the results of the weight.
        tf32: As for `fisher_linear`; the default is ``torch.backends.cudnn.conv.fp32_precision``.
    """
    if tf32 is None:
        tf32 = grad.is_cuda and torch.backends.cudnn.conv.fp32_precision == "tf32"  # type: ignore[attr-defined]
    spatial = (list(stride), list(padding), list(dilation))
    biases = (bias_fisher, bias_gradient)
    _ops.fisher_convolution(grad, input, weights, *spatial, groups, fisher, gradient, *biases, overwrite, tf32)


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
        scale_fisher: [G, P], added to in place; likewise the other results.
        scale_gradient: [G, P].
        shift_fisher: [G, P].
        shift_gradient: [G, P].
    """
    _ops.fisher_affine(grad, input, mean, rstd, weights, scale_fisher, scale_gradient, shift_fisher, shift_gradient)


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
    _ops.fisher_embedding(grad, tokens, weights, padding_idx, fisher, gradient)


def select(scores: Sequence[Tensor], k: int) -> tuple[Tensor, Tensor]:
    """Find the k largest of a list of tensors; ties go by (tensor, element) order.

    Args:
        scores: L contiguous float32, float64, bfloat16 or float16 tensors of any shapes, without NaN.
        k: How many, 1 <= k <= number of elements.

    Returns:
        ``mask``, int64 [W]: 64 elements a word, the first in bit 0, and every tensor beginning a word; and the
        k-th largest score, 0-d, dtype of the scores. Where a score is NaN, on a CUDA device, this threshold is NaN,
        and the mask holds any k elements.
    """
    _check_not_empty("scores", scores)
    mask, threshold = _ops.select(list(scores), k)
    return mask, threshold


def select_histogram(scores: Sequence[Tensor], prefix: int, left: int, shift: int) -> Tensor:
    """Count, for each tensor, one digit of the keys that begin like a prefix: a step of a radix selection.

    The key of a score is an unsigned integer that sorts like it: its bits as float32, or float64, the sign bit flipped
    where it is 0 and all bits where it is 1, and -0 as 0. NaN of either sign lies beyond the infinity of that sign.

    Args:
        scores: L contiguous float32, float64, bfloat16 or float16 tensors of any shapes.
        prefix: The bits of the keys from ``left`` up, as an integer; 0 where there are none.
        left: In [1, 32], or [1, 64] for float64.
        shift: Where the digit begins, at most eleven bits below ``left``.

    Returns:
        int64 [L, 2 ** (left - shift)]: how many of the keys that are ``prefix`` from bit ``left`` up have each value of
        the bits [shift, left).
    """
    _check_not_empty("scores", scores)
    counts: Tensor = _ops.select_histogram(list(scores), prefix, left, shift)
    return counts


def select_mask(mask: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Return a mask from `select` as bool tensors of the shapes of L others.

    On a CUDA device bits beyond the end of a tensor are ignored, here and by the operators below.
    """
    return list(_ops.select_mask(mask, list(like)))


def select_indices(mask: Tensor, like: Sequence[Tensor], k: int) -> tuple[Tensor, Tensor]:
    """Return a mask from `select` as indices.

    Args:
        mask: From `select`.
        like: L tensors of the shapes of the scores.
        k: As given to `select`. On a CUDA device nobody counts: where the mask holds more elements, the first k are
            meant, and where it holds fewer, the last indices are undefined and not counted.

    Returns:
        ``indices`` [k] within each tensor, in (tensor, element) order, int32 unless a tensor has 2**31 elements or
        more; ``counts`` int64 [L], how many of them belong to each tensor.
    """
    indices, counts = _ops.select_indices(mask, list(like), k)
    return indices, counts


def perturb(parameters: Sequence[Tensor], directions: Sequence[Tensor], mask: Tensor, k: int, alpha: float) -> Tensor:
    """Add ``alpha * directions`` to the selected elements of the parameters, in place, and keep the old ones.

    Args:
        parameters: L contiguous tensors of one dtype and the shapes of the scores, changed in place.
        directions: L contiguous float32 or float64 tensors of these shapes.
        mask: From `select`.
        k: As given to `select`. On a CUDA device nobody counts: where the mask holds more elements, the first k
            change, and where it holds fewer, the end of the result is undefined.
        alpha: The step.

    Returns:
        The selected elements before, [k], in (tensor, element) order.
    """
    _check_not_empty("parameters", parameters)
    old: Tensor = _ops.perturb(list(parameters), list(directions), mask, k, alpha)
    return old


def perturb_undo(parameters: Sequence[Tensor], mask: Tensor, old: Tensor) -> None:
    """Put back what `perturb` returned for this mask; on a CUDA device no more elements than ``old`` has."""
    _ops.perturb_undo(list(parameters), mask, old)


def perturb_write(parameters: Sequence[Tensor], indices: Tensor, counts: Tensor, values: Tensor) -> None:
    """Write values at indices within each of L contiguous parameters.

    On a CUDA device indices out of range and values beyond the counts are ignored, as are counts below zero and
    beyond the end of the values, and of an index that comes twice any one value stays.

    Args:
        parameters: L contiguous tensors of one dtype, changed in place.
        indices: int32 or int64 [K].
        counts: int64 [L], how many of them belong to each tensor, in order.
        values: [K], dtype of the parameters.
    """
    _ops.perturb_write(list(parameters), indices, counts, values)


def project_gram(grads: Sequence[Tensor], tasks: int, *, per_tensor: bool = False) -> Tensor:
    """Return the Gram matrices of K tasks' gradients: ``gram[s, i, j] = <g_i, g_j>``, summed in float64.

    Args:
        grads: K * L contiguous tensors, the L of the first task first; those of the same place in all tasks
            have one shape and dtype: float32, float64, bfloat16 or float16.
        tasks: K.
        per_tensor: A matrix for each of the L tensors (S = L) instead of one for all of them (S = 1).

    Returns:
        float64 [S, K, K].
    """
    _check_not_empty("grads", grads)
    result: Tensor = _ops.project_gram(list(grads), tasks, per_tensor)
    return result


def project_weights(gram: Tensor, order: Tensor) -> Tensor:
    """Return the weights that make the sum of the projected gradients of the originals.

    Gradient i starts as ``e_i`` in terms of the originals; for j in ``order[i]``, if ``<g_i', g_j> < 0``, it
    loses ``<g_i', g_j> / <g_j, g_j>`` of the original ``g_j``, unless that multiple is not finite.

    Args:
        gram: float64 [S, K, K] from `project_gram`.
        order: int64 [K, M]: the tasks off which gradient i is projected, one after the other; -1 for none.

    Returns:
        float64 [S, K].
    """
    result: Tensor = _ops.project_weights(gram, order)
    return result


def project_combine(grads: Sequence[Tensor], weights: Tensor, out: Sequence[Tensor]) -> None:
    """Write ``sum_k weights[s, k] * g_k``, summed in float64 and rounded once.

    Args:
        grads: K * L tensors as given to `project_gram`.
        weights: float64 [S, K], S = L for a row per tensor, or 1.
        out: L contiguous tensors with the shapes and dtypes of each task's, written in place. One may be a
            gradient of its own place in the list; otherwise they share no memory.
    """
    _check_not_empty("grads", grads)
    _ops.project_combine(list(grads), weights, list(out))


def fingerprint(tensors: Sequence[Tensor]) -> Tensor:
    """Return two 64-bit order-sensitive sums per tensor, int64 [L, 2]; finds accidents, is not cryptographic."""
    _check_not_empty("tensors", tensors)
    result: Tensor = _ops.fingerprint(list(tensors))
    return result


def _check_not_empty(name: str, tensors: Sequence[Tensor]) -> None:
    if not tensors:  # without a tensor the dispatcher cannot even find the operator that would say so
        raise ValueError(f"`{name}` must not be empty")
