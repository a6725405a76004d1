"""Tensors that require a gradient and are no parameters do not change the result."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from asserts import assert_fisher
from cases import randn
from fisher.small_modules import TARGETS, N, Using
from torch import Tensor

SCALE = torch.linspace(0.5, 1.5, 5, requires_grad=True)


def own_leaf(p: Any, x: Tensor) -> Tensor:
    x = x.detach()
    x.requires_grad = True
    return F.linear(x, p.w, p.b)


# Tensors that require a gradient but are no parameters: nothing before the uses leads to one.
FOREIGN: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "requires_grad_": lambda p, x: F.linear(x.detach().requires_grad_(), p.w, p.b),
    "requires_grad set": own_leaf,
    "made with one": lambda p, x: F.linear(x + torch.ones(5, dtype=x.dtype, requires_grad=True), p.w, p.b),
    "buffer": lambda p, x: F.linear(x * p.scale, p.w, p.b),
}
# The same from outside, which might be anything.
UNSEEN: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "factor": lambda p, x: F.linear(x * SCALE, p.w, p.b),
    "factor after a use": lambda p, x: F.linear(F.linear(x, p.w) * SCALE, p.w, p.b),
    "factor beside a use": lambda p, x: F.linear(x, p.w) + F.linear(x * SCALE, p.w, p.b),
    "in place": lambda p, x: F.linear(x.clone().add_(SCALE), p.w, p.b),
    "matrix": lambda p, x: F.linear(F.linear(x, SCALE.to(x.dtype).expand(5, 5)), p.w, p.b),
}


class UsingBuffer(Using):
    """Has a buffer that requires a gradient as well."""

    def __init__(self, *args: Any, **shapes: Any) -> None:
        super().__init__(*args, **shapes)
        self.register_buffer("scale", torch.linspace(0.5, 1.5, 5).requires_grad_())


@pytest.mark.parametrize("name", [*FOREIGN, *UNSEEN])
def test_other_tensors_that_require_gradients(name: str) -> None:
    function = (FOREIGN | UNSEEN)[name]
    fallback = {"w", "b"} if name in UNSEEN else ()
    assert_fisher(lambda: UsingBuffer(function, w=(5, 5), b=(5,)), randn(N, 5, seed=1), TARGETS, fallback=fallback)
    assert SCALE.grad is None
