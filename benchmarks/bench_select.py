"""Exact top-k over the parameters of a ResNet-18 (11.2M scores in 62 tensors): against torch.topk and numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from networks import resnet18_cifar
from torch import Tensor

import fastforget

SHARES = [0.001, 0.01, 0.1]


@pytest.fixture(scope="module")
def scores() -> list[Tensor]:
    """Like a Fisher diagonal: squares over many orders of magnitude, a fifth of them exact zeros."""
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(p.shape, generator=generator) for p in resnet18_cifar().parameters()]
    return [torch.where(x > -0.85, x.pow(6), torch.zeros(())) for x in drawn]


def with_torch(scores: list[Tensor], k: int) -> list[Tensor]:
    flat = torch.cat([score.flatten() for score in scores])
    mask = torch.zeros_like(flat, dtype=torch.bool)
    mask[flat.topk(k).indices] = True
    return list(mask.split([score.numel() for score in scores]))


def with_numpy(scores: list[Tensor], k: int) -> list[Tensor]:
    flat = torch.cat([score.flatten() for score in scores]).numpy()
    mask = torch.zeros(len(flat), dtype=torch.bool)
    mask[torch.from_numpy(np.argpartition(flat, -k)[-k:])] = True
    return list(mask.split([score.numel() for score in scores]))


def test_the_results_agree(scores: list[Tensor]) -> None:
    """Checked before anything is timed; without ties at the threshold the masks are the same."""
    k = round(0.01 * sum(score.numel() for score in scores))
    masks = [[m.flatten() for m in method(scores, k)] for method in (fastforget.topk_mask, with_torch, with_numpy)]
    for other in masks[1:]:
        assert all(torch.equal(a, b) for a, b in zip(masks[0], other, strict=True))


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize(
    "method",
    [fastforget.topk_mask, with_torch, with_numpy],
    ids=["fastforget", "cat + torch.topk", "cat + argpartition"],
)
def test_select(scores: list[Tensor], method: Callable[..., Any], share: float, timed: Callable[..., Any]) -> None:
    total = sum(score.numel() for score in scores)
    timed(lambda: method(scores, round(share * total)), f"select {share:.1%} of 11M", bytes=4 * total)
