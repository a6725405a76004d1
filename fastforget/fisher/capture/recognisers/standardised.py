"""Convolutions whose weight is standardised: each row less its mean, divided by its deviation, times a gain.

With v the gradient of one sample at the standardised weight W = gain * p, row by row of K elements, the gradient at the
raw weight is

    c = gain / deviation * (v - m - p * q),    m = mean(v),  q = mean(v * p).

m and q need no v: they are sums over positions of the output's gradient, times the sum of the patch, and times the
output less its bias. So the sum of c² over the samples needs beside that of v² two weight gradients, of m * v and of
q * v, and never one sample's v. Where little is left of v², rounding would be much of it: then the samples go one by
one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastforget.fisher.capture.layout import Layout
from fastforget.fisher.capture.use import Accumulate, Standardised, Sums, Use, add_shift
from fastforget.fisher.capture.watch import Watch, version_of
from fastforget.fisher.dtypes import autocasts

__all__ = ["Convolved", "StandardisedUses", "standardised_rows", "standardised_weight"]

_LEAST_LEFT = 1e-2  # of v² in a row: below it, the samples go one by one


def standardised_rows(watch: Watch, rows: Tensor, gain: Any, momentum: float, eps: float) -> Tensor:
    """Return the batch norm of ``rows``, a parameter seen as [1, O, ...], whose rows are the channels."""
    output, mean, reciprocal = torch.native_batch_norm(rows, gain, None, None, None, True, momentum, eps)
    watch.record(output, None)
    raw = watch.parameter(rows)
    if raw is None or raw.name in watch.computed or rows.dim() < 3 or raw.leaf.dim() < 3:
        return output
    is_whole = rows.shape[:2] == (1, len(raw.leaf)) and rows.numel() == raw.leaf.numel() and rows.is_contiguous()
    if is_whole and raw.leaf.dtype in (torch.float32, torch.float64) and not autocasts(rows):
        watch.standardised[output] = Standardised(raw.leaf, gain, mean, reciprocal, version_of(output))
    return output


def standardised_weight(watch: Watch, weight: Any) -> Standardised | None:
    """Return how a weight was standardised, if it was and has the rows of the raw one."""
    made = weight if weight._base is None else weight._base  # noqa: SLF001 - nothing public says it
    known = watch.standardised.get(made)
    if known is None or known.version != version_of(made) or not weight.is_contiguous():
        return None
    return known if weight.shape == known.raw.shape else None


class Convolved(NamedTuple):
    """A convolution with a standardised weight.

    Attributes:
        input: [N * frames, I, *in].
        layout: Of the input.
        plain: Adds the squares and gradients of a weight, as if nothing were standardised.
        patch_sums: Returns the sums of the patches of an input, [N * frames, groups, *out].
        convolve: Returns the convolution of an input with a weight.
    """

    input: Tensor
    layout: Layout
    plain: Accumulate
    patch_sums: Callable[[Tensor], Tensor]
    convolve: Callable[[Tensor, Tensor], Tensor]


class StandardisedUses:
    """The uses of the raw weight, and of the gain if it is a parameter, by a convolution.

    Attributes:
        uses: One or two.
    """

    def __init__(self, watch: Watch, weight: Standardised, convolved: Convolved) -> None:
        """Describe them."""
        self._weight, self._convolved, self._samples = weight, convolved, watch.samples
        self._gain = None if weight.gain is None else weight.gain.detach().reshape(-1, 1)
        self._product: tuple[Tensor, int] | None = None
        self.uses: list[Use] = [watch.use_of(weight.raw, self._add_raw, convolved.input)]
        if watch.parameter(weight.gain):
            self.uses.append(watch.use_of(weight.gain, self._add_gain, convolved.input))

    def keep_product(self, product: Tensor) -> None:
        """Keep what the convolution returned, less the bias, which is needed in backward."""
        self._product = product.detach(), version_of(product)

    def _add_gain(self, grad: Tensor, operands: Sequence[Tensor], weights: Tensor, sums: Sums) -> None:
        means = self._means_of_product(grad, operands[0]) * self._weight.raw[0].numel()
        add_shift(means.reshape(self._samples, 1, -1, 1), weights, sums)

    def _add_raw(self, grad: Tensor, operands: Sequence[Tensor], weights: Tensor, sums: Sums) -> None:
        m, q, p = self._means_of_gradient(grad, operands[0]), self._means_of_product(grad, operands[0]), self._rows_p()
        scale = self._weight.reciprocal[:, None] * (1 if self._gain is None else self._gain)

        def gradient(of: Tensor, group: Tensor) -> Tensor:
            """Return sum_n weights[n] * v_n for the gradient of an output, [O, K]."""
            return self._rows(of, operands, group, squares=False)

        for g, group in enumerate(weights):
            if sums.gradient is not None:
                rows = gradient(grad, group).sub_((group @ m)[:, None]).addcmul_(p, (group @ q)[:, None], value=-1)
                sums.gradient[g].flatten(1).addcmul_(rows, scale)
            if sums.fisher is not None:
                left = self._rows(grad, operands, group, squares=True)
                before = left.sum(1)
                of_m, of_q = (gradient(grad * self._by_channel(mean, grad), group) for mean in (m, q))
                mm, mq, qq = ((group @ product)[:, None] for product in (m * m, m * q, q * q))
                # v² - 2 v m + m² + p (p q² + 2 m q - 2 v q)
                times_p = torch.mul(p, qq).add_(mq, alpha=2).sub_(of_q, alpha=2)
                left.sub_(of_m, alpha=2).add_(mm).addcmul_(p, times_p)
                if bool((left.sum(1) < _LEAST_LEFT * before).any()):
                    left = self._left_one_by_one(grad, operands, group, (m, q, p))
                sums.fisher[g].flatten(1).addcmul_(left.clamp_min_(0), scale.square())

    def _left_one_by_one(
        self, grad: Tensor, operands: Sequence[Tensor], group: Tensor, means: tuple[Tensor, Tensor, Tensor]
    ) -> Tensor:
        """Return sum_n weights[n] * (v_n - m_n - p * q_n)², [O, K]."""
        m, q, p = means
        left, one = torch.zeros_like(p), torch.zeros_like(group)
        for n in range(self._samples):
            one.zero_()[n] = 1
            v = self._rows(grad, operands, one, squares=False)
            v.sub_(m[n][:, None]).addcmul_(p, q[n][:, None], value=-1)
            left.addcmul_(v, v * group[n])
        return left

    def _rows(self, grad: Tensor, operands: Sequence[Tensor], group: Tensor, *, squares: bool) -> Tensor:
        total = torch.empty((1, *self._weight.raw.shape), dtype=group.dtype, device=group.device)
        sums = Sums(total, None, overwrite=True) if squares else Sums(None, total, overwrite=True)
        self._convolved.plain(grad, operands, group[None], sums)
        return total[0].flatten(1)

    def _rows_p(self) -> Tensor:
        """Return the standardised rows, [O, K]."""
        weight = self._weight
        return (weight.raw.detach().flatten(1) - weight.mean[:, None]).mul_(weight.reciprocal[:, None])

    def _means_of_gradient(self, grad: Tensor, x: Tensor) -> Tensor:
        """Return m, [N, O]."""
        patches = self._convolved.patch_sums(x)
        products = grad.unflatten(1, (patches.shape[1], -1)) * patches.unsqueeze(2)
        return self._over_positions(products.flatten(1, 2)) / self._weight.raw[0].numel()

    def _means_of_product(self, grad: Tensor, x: Tensor) -> Tensor:
        """Return q, [N, O], from the product gain * (p * x) if it is still what it was."""
        size = self._weight.raw[0].numel()
        if self._product is None or self._product[1] != version_of(self._product[0]) or not self._divides(x):
            product = self._convolved.convolve(x, self._rows_p().view_as(self._weight.raw))
            return self._over_positions(grad * product) / size
        sums = self._over_positions(grad * self._product[0])
        return sums / (size if self._gain is None else self._gain[:, 0] * size)

    def _divides(self, x: Tensor) -> bool:
        """Whether the gain is known to be something that the product can be divided by."""
        return self._gain is None or (x.is_cpu and bool((self._gain != 0).all()))

    def _over_positions(self, values: Tensor) -> Tensor:
        """Sum [N * frames, O, *out] over all but samples and channels."""
        of_planes = values.flatten(2).sum(2)
        return of_planes.view(self._samples, -1, of_planes.shape[1]).sum(1)

    def _by_channel(self, means: Tensor, grad: Tensor) -> Tensor:
        """View [N, O] so that it broadcasts with a gradient."""
        repeated = means.repeat_interleave(self._convolved.layout.inner, 0)
        return repeated.reshape(*repeated.shape, *(1,) * (grad.dim() - 2))
