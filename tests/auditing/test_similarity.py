"""Debiased CKA is what its definition by kernels says."""

import math

import pytest
import torch
from torch import Tensor

from fastforget.auditing.similarity import debiased_cka


def by_kernels(one: Tensor, other: Tensor) -> float:
    """Compute it from the N by N kernels, as in Song et al., equation 5."""
    n = len(one)
    k, m = ((x @ x.T).fill_diagonal_(0) for x in (one, other))

    def hsic(a: Tensor, b: Tensor) -> float:
        trace = torch.trace(a @ b) + a.sum() * b.sum() / ((n - 1) * (n - 2)) - 2 * (a @ b).sum() / (n - 2)
        return float(trace) / (n * (n - 3))

    return hsic(k, m) / math.sqrt(hsic(k, k) * hsic(m, m))


def drawn(samples: int, size: int, seed: int) -> Tensor:
    return torch.randn(samples, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_against_kernels() -> None:
    one = drawn(30, 5, 0) + 2
    other = one @ drawn(5, 7, 1) + 2 * drawn(30, 7, 2)
    assert debiased_cka(one, other) == pytest.approx(by_kernels(one, other), abs=1e-10)
    assert 0.2 < debiased_cka(one, other) < 0.9


def test_rotations_and_scales_do_not_matter() -> None:
    one = drawn(40, 6, 0)
    rotation, _ = torch.linalg.qr(drawn(6, 6, 1))
    assert debiased_cka(one, 3 * one @ rotation + 5) == pytest.approx(1)


def test_features_with_nothing_in_common() -> None:
    """There are as many features as samples: without the correction it would be about 0.5."""
    found = [debiased_cka(drawn(50, 50, 2 * seed), drawn(50, 50, 2 * seed + 1)) for seed in range(40)]
    assert abs(sum(found) / 40) < 0.02


def test_what_cannot_be_compared() -> None:
    assert math.isnan(debiased_cka(drawn(3, 5, 0), drawn(3, 5, 1)))
    assert math.isnan(debiased_cka(torch.ones(9, 2), drawn(9, 2, 1)))
