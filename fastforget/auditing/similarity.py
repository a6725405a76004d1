"""How alike the features of two networks are."""

from __future__ import annotations

import math

from torch import Tensor

__all__ = ["debiased_cka"]


def debiased_cka(one: Tensor, other: Tensor) -> float:
    """Return the linear centred kernel alignment of two networks' features of the same samples, debiased.

    ``HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))`` of the linear kernels ``K = X X^T`` and ``L = Y Y^T``. It does not
    change with the scale or a rotation of the features, and is 0 on average where they have nothing in common. The
    usual estimate is far above 0 then, if there are not many more samples than features.

    Source: Kornblith et al., "Similarity of Neural Network Representations Revisited", ICML 2019; with the unbiased
    estimate of HSIC by Song et al., JMLR 2012, written with features in place of kernels: no matrix is N by N.

    Args:
        one: Features of the one, [N, D].
        other: Features of the other for the same samples, [N, E].

    Returns:
        At most 1, which is equal up to rotation and scale. NaN for fewer than four samples or constant features.
    """
    x, y = (values.double() - values.double().mean(0) for values in (one, other))
    own = _hsic(x, x) * _hsic(y, y) if len(x) > 3 else 0.0
    return _hsic(x, y) / math.sqrt(own) if own > 0 else math.nan


def _hsic(x: Tensor, y: Tensor) -> float:
    """Return N (N - 3) times the unbiased estimate."""
    n = len(x)
    diagonal_x, diagonal_y = x.square().sum(1), y.square().sum(1)
    # Row sums of the kernels without their diagonals.
    rows_x, rows_y = x @ x.sum(0) - diagonal_x, y @ y.sum(0) - diagonal_y
    trace = (x.T @ y).square().sum() - diagonal_x @ diagonal_y
    corner = rows_x.sum() * rows_y.sum() / ((n - 1) * (n - 2))
    return float(trace + corner - 2 * (rows_x @ rows_y) / (n - 2))
