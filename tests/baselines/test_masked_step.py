"""Masked steps: elements outside a mask stay, those inside move as they would without one."""

import math
from functools import partial
from typing import Any

import pytest
import torch
from asserts import assert_same_bits
from torch import nn

from fastforget.baselines.masked_step import MaskedStep


@pytest.mark.parametrize(
    "build",
    [
        partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.1),
        partial(torch.optim.AdamW, lr=0.1, weight_decay=0.5),
        partial(torch.optim.RMSprop, lr=0.1, momentum=0.5, weight_decay=0.1),
    ],
)
def test_a_masked_step_leaves_the_others_alone(build: Any) -> None:
    """To the bit, a signed zero and a NaN included; those inside move as they would without a mask."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(5, 6, generator=generator)
    start[0, :2] = torch.tensor([-0.0, math.nan])
    mask = torch.rand(5, 6, generator=generator) < 0.5
    mask[0, :2] = False
    free, held, loose = (nn.Parameter(start.clone()) for _ in range(3))
    optimizer, masked = build([free]), MaskedStep(build([held, loose]), {held: mask})
    for _ in range(4):
        slope = torch.randn(5, 6, generator=generator)
        for parameter in (free, held, loose):
            parameter.grad = slope.clone()
        optimizer.step()
        masked.step()
    assert_same_bits(held[~mask], start[~mask])
    assert_same_bits(held[mask], free[mask])
    assert_same_bits(loose, free)
    masked.zero_grad()
    assert held.grad is None
    for wrong in (mask.float(), mask[:2]):
        with pytest.raises(ValueError, match=r"^masks must be bool of shape"):
            MaskedStep(optimizer, {held: wrong})
