"""Every operator of `fastforget.ops` in plain PyTorch: the definition that tests compare with.

Names, arguments and results are the same. It is written to be read and to be right in float64, not to be fast:
per-sample gradients are stored. The package itself never imports this module.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
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
]


def _wide(tensor: Tensor) -> Tensor:
    """Widen half types to float32; float32 and float64 stay."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _add(per_sample: Tensor, weights: Tensor, fisher: Tensor | None, gradient: Tensor | None) -> None:
    """Add the weighted sums over samples of ``per_sample`` [N, ...], squared and plain, to results [G, ...]."""
    if fisher is not None:
        fisher += torch.einsum("gn,n...->g...", weights, per_sample.square())
    if gradient is not None:
        gradient += torch.einsum("gn,n...->g...", weights, per_sample)


def _clear(*results: Tensor | None) -> None:
    for result in results:
        if result is not None:
            result.zero_()


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
) -> None:
    """Add the diagonal Fisher of a linear weight, ``c_n = grad[n].T @ input[n]``, and of a bias."""
    if overwrite:
        _clear(fisher, gradient)
    _add(_wide(grad).sum(1), weights, bias_fisher, bias_gradient)
    _add(torch.einsum("nto,nti->noi", _wide(grad), _wide(input)), weights, fisher, gradient)


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
) -> None:
    """Add the diagonal Fisher of a convolution's weight: c_n is what autograd gives for sample n alone."""
    if overwrite:
        _clear(fisher, gradient)
    _add(_wide(grad).flatten(2).sum(2), weights, bias_fisher, bias_gradient)
    result = fisher if fisher is not None else gradient
    if result is None:
        return
    weight = result.new_zeros(result.shape[1:])
    zeros = [0] * len(stride)
    samples = [
        torch.ops.aten.convolution_backward(
            g, x, weight, None, stride, padding, dilation, False, zeros, groups, [False, True, False]
        )[1]
        for g, x in zip(_wide(grad).split(1), _wide(input).split(1), strict=True)
    ]
    _add(torch.stack(samples) if samples else weight.new_zeros((0, *weight.shape)), weights, fisher, gradient)


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
    """Add the diagonal Fisher of a shift and a scale over a [N, A, P, B] view."""
    grad = _wide(grad)
    _add(grad.sum((1, 3)), weights, shift_fisher, shift_gradient)
    if input is not None:
        values = _wide(input)
        values = values if mean is None else values - mean.unsqueeze(3)
        values = values if rstd is None else values * rstd.unsqueeze(3)
        _add((grad * values).sum((1, 3)), weights, scale_fisher, scale_gradient)


def fisher_embedding(
    grad: Tensor,
    tokens: Tensor,
    weights: Tensor,
    padding_idx: int,
    fisher: Tensor | None,
    gradient: Tensor | None = None,
) -> None:
    """Add the diagonal Fisher of an embedding table; repeated tokens are summed before the square."""
    result = fisher if fisher is not None else gradient
    if result is None:
        return
    per_sample = result.new_zeros((grad.shape[0], *result.shape[1:]))
    for table, rows, indices in zip(per_sample, _wide(grad), tokens, strict=True):
        kept = indices != padding_idx
        table.index_add_(0, indices[kept], rows[kept])
    _add(per_sample, weights, fisher, gradient)


def select(scores: Sequence[Tensor], k: int) -> tuple[Tensor, Tensor]:
    """Find the k largest elements of a list of tensors by a stable sort of all of them, with -0 equal to +0."""
    flat = torch.cat([score.flatten() for score in scores]) + 0.0
    values, positions = torch.sort(flat, descending=True, stable=True)
    selected = torch.zeros_like(flat, dtype=torch.bool)
    selected[positions[:k]] = True
    weights = torch.ones(64, dtype=torch.int64, device=flat.device) << torch.arange(64, device=flat.device)
    parts = [F.pad(part, (0, -len(part) % 64)) for part in selected.split([score.numel() for score in scores])]
    return (torch.cat(parts).view(-1, 64) * weights).sum(1), values[k - 1]


def select_histogram(scores: Sequence[Tensor], prefix: int, left: int, shift: int) -> Tensor:
    """Count the values of the bits [shift, left) among the keys whose bits from ``left`` up are ``prefix``."""
    rows = []
    for score in scores:
        values = _wide(score).flatten() + 0.0
        size = 8 * values.element_size()
        bits = values.view(torch.int64 if size == 64 else torch.int32)
        keys = (bits ^ torch.where(bits < 0, -1, torch.iinfo(bits.dtype).min)).long()
        above = [keys >> end & 2 ** (size - end) - 1 if end < size else 0 * keys for end in (left, shift)]
        digits = above[1][above[0] == prefix] & 2 ** (left - shift) - 1
        rows.append(torch.bincount(digits, minlength=2 ** (left - shift)))
    return torch.stack(rows)


def select_mask(mask: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Return a mask as bool tensors."""
    bits = (mask[:, None] >> torch.arange(64, device=mask.device) & 1).bool()
    words = [(tensor.numel() + 63) // 64 for tensor in like]
    parts = zip(bits.split(words), like, strict=True)
    return [part.flatten()[: tensor.numel()].view(tensor.shape) for part, tensor in parts]


def select_indices(mask: Tensor, like: Sequence[Tensor], k: int) -> tuple[Tensor, Tensor]:
    """Return a mask as indices within each tensor, int32 where they fit, and how many belong to each tensor.

    Raises:
        ValueError: ``k`` is not the number of selected elements.
    """
    indices = [part.flatten().nonzero()[:, 0] for part in select_mask(mask, like)]
    if sum(map(len, indices)) != k:
        raise ValueError(f"`k` must be the number of selected elements, {sum(map(len, indices))}, got {k}")
    narrow = torch.int32 if all(tensor.numel() < 2**31 for tensor in like) else torch.int64
    return torch.cat(indices).to(narrow), torch.tensor([len(at) for at in indices], device=mask.device)


def perturb(parameters: Sequence[Tensor], directions: Sequence[Tensor], mask: Tensor, k: int, alpha: float) -> Tensor:
    """Add ``alpha * directions`` to the selected elements in the directions' type, rounded once to the parameters'.

    Returns:
        The values before.
    """
    indices, counts = select_indices(mask, parameters, k)
    old = []
    for parameter, direction, at in zip(parameters, directions, indices.split(counts.tolist()), strict=True):
        before = parameter.view(-1)[at]
        parameter.view(-1)[at] = (before.to(direction.dtype) + alpha * direction.view(-1)[at]).to(parameter.dtype)
        old.append(before)
    return torch.cat(old)


def perturb_undo(parameters: Sequence[Tensor], mask: Tensor, old: Tensor) -> None:
    """Put the values before back."""
    perturb_write(parameters, *select_indices(mask, parameters, len(old)), old)


def perturb_write(parameters: Sequence[Tensor], indices: Tensor, counts: Tensor, values: Tensor) -> None:
    """Write values at the indices within each parameter."""
    sizes = counts.tolist()
    for parameter, at, new in zip(parameters, indices.split(sizes), values.split(sizes), strict=True):
        parameter.view(-1)[at] = new


def project_gram(grads: Sequence[Tensor], tasks: int, *, per_tensor: bool = False) -> Tensor:
    """Return the Gram matrices of K tasks' gradients, float64 [S, K, K]."""
    count = len(grads) // tasks
    places = [torch.stack([grad.double().flatten() for grad in grads[place::count]]) for place in range(count)]
    matrices = torch.stack([rows @ rows.T for rows in places])
    return matrices if per_tensor else matrices.sum(0, keepdim=True)


def project_weights(gram: Tensor, order: Tensor) -> Tensor:
    """Return the weights of the originals in the sum of the projected gradients, float64 [S, K]."""
    sums = torch.zeros_like(gram[:, 0])
    for scope, products in enumerate(gram):
        for i, steps in enumerate(order.tolist()):
            weights = torch.eye(len(products), dtype=torch.float64, device=gram.device)[i]
            for j in steps:
                used = weights != 0
                product, square = products[j, used] @ weights[used], products[j, j]
                if j >= 0 and product < 0 and (product / square).isfinite():
                    weights[j] -= product / square
            sums[scope] += weights
    return sums


def project_combine(grads: Sequence[Tensor], weights: Tensor, out: Sequence[Tensor]) -> None:
    """Write the weighted sums, rounded once."""
    rows = weights.expand(len(out), -1).tolist()
    for place, (row, result) in enumerate(zip(rows, out, strict=True)):
        terms = [weight * grad.double() for weight, grad in zip(row, grads[place :: len(out)], strict=True)]
        result.copy_(torch.stack(terms).sum(0))


def fingerprint(tensors: Sequence[Tensor]) -> Tensor:
    """Return two sums per tensor, int64 [L, 2], modulo 2^64.

    With 32-bit words w at word index i (elements narrower than four bytes are a word each), and two sets of
    constants a, b, c, d::

        sum_i (w + i * a + c) * (w ^ (i * b + d))      (operands modulo 2^32)
    """
    constants = (
        (0x9E3779B1, 0x85EBCA77, 0x7F4A7C15, 0xF39CC060),
        (0xC2B2AE3D, 0x27D4EB2F, 0x5CED93A1, 0x165667B1),
    )
    word = 2**32 - 1
    sums = []
    for tensor in tensors:
        size = tensor.element_size()
        bits = tensor.reshape(-1).view({1: torch.uint8, 2: torch.int16}.get(size, torch.int32)).long()
        w = bits & (2 ** (8 * min(size, 4)) - 1)
        i = torch.arange(w.numel(), device=w.device) & word
        sums.append([int((((w + i * a + c) & word) * (w ^ ((i * b + d) & word))).sum()) for a, b, c, d in constants])
    return torch.tensor(sums, dtype=torch.int64, device=tensors[0].device)
