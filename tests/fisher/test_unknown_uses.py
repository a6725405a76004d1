"""A use that is not recognised falls back to one sample at a time, and is named."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from asserts import assert_close, assert_fisher, batch_one_loop, prepared, square_error
from cases import randn
from fisher.small_modules import TARGETS, N, Using
from torch import Tensor

from fastforget.fisher.compute import fisher_diagonal


def with_mode_off(p: Any, x: Tensor) -> Tensor:
    with torch._C.DisableTorchFunction():
        return F.linear(x, p.w)


UNKNOWN: dict[str, tuple[Callable[..., Tensor], dict[str, tuple[int, ...]], tuple[int, ...], set[str]]] = {
    "bilinear": (lambda p, x: F.bilinear(x, x, p.w), {"w": (3, 5, 5)}, (5,), {"w"}),
    "torch functions off": (with_mode_off, {"w": (5, 5)}, (5,), {"w"}),
    "convolution of [T * N, C, L]": (
        lambda p, x: F.conv1d(x.transpose(0, 1).reshape(-1, 5, 1), p.w).view(6, -1, 5).transpose(0, 1),
        {"w": (5, 5, 1)},
        (6, 5),
        {"w"},
    ),
    "experts chosen per sample": (
        lambda p, x: torch.einsum("nd,ned->ne", x, p.w[(x[:, 0] > 0).long()]),
        {"w": (2, 4, 5)},
        (5,),
        {"w"},
    ),
    "distance to prototypes": (lambda p, x: torch.cdist(x, p.w), {"w": (6, 5)}, (5,), {"w"}),
    "bias of one element": (lambda p, x: F.linear(x, p.w, p.b), {"w": (5, 5), "b": (1,)}, (5,), {"w", "b"}),
    "samples mixed": (lambda p, x: F.linear(x - x.mean(0), p.w) + F.linear(x, p.w), {"w": (5, 5)}, (5,), {"w"}),
    "samples reversed and back": (lambda p, x: F.linear(x.flip(0), p.w).flip(0), {"w": (5, 5)}, (5,), {"w"}),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_use_falls_back_and_is_named(name: str) -> None:
    function, shapes, size, fallback = UNKNOWN[name]
    found = assert_fisher(lambda: Using(function, **shapes), randn(N, *size, seed=1), TARGETS, fallback=fallback)
    assert all(reason for reason in found.fallback.values())


REPEATED = {
    "weight": lambda p, x: F.linear(x, p.w.expand(4, 5)),
    "bias": lambda p, x: F.linear(x, p.v, p.w.sum(1).expand(6)),
    "sum over the repeats": lambda p, x: x * p.w.expand(6, 5).sum(0),
    "table": lambda p, x: F.embedding((x > 0).long(), p.w.expand(2, 5)),
    "tokens": lambda p, x: x + p.w.expand(6, 5),
    "matrix": lambda p, x: x @ p.w.expand(3, 5).mT,
    "einsum": lambda p, x: torch.einsum("...d,od->...o", x, p.w.expand(4, 5)),
    "layer norm": lambda p, x: F.layer_norm(x, (5,), p.v.mean(0), p.w.squeeze().sum().expand(5)),
    "class token": lambda p, x: torch.cat([x, p.w.expand(len(x), 1, 5)], 1),
}


@pytest.mark.parametrize("samples", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("name", REPEATED)
def test_repeats_that_happen_to_equal_the_batch_size(name: str, samples: int) -> None:
    """A parameter repeated inside the model must not be taken for one repeated for every sample."""
    build = lambda: Using(REPEATED[name], w=(1, 5), v=(6, 5))  # noqa: E731
    x, targets = randn(samples, 6, 5, seed=1), randn(samples, seed=9)
    model = prepared(build)
    found = fisher_diagonal(model, x, targets, loss=square_error)
    exact = prepared(build).double()
    expected, _ = batch_one_loop(exact, x.double(), targets.double(), square_error, torch.ones(1, samples))
    for key, value in expected.items():
        assert_close(found[key], value[0] + 0.0, name=key)


def test_a_model_that_writes_to_its_parameters_is_an_error() -> None:
    model = prepared(lambda: Using(lambda p, x: p.w.add_(x), w=(1, 5)))
    before = model.w.detach().clone()
    with pytest.raises(RuntimeError, match="a leaf Variable that requires grad is being used in an in-place operation"):
        fisher_diagonal(model, randn(1, 5, seed=1), TARGETS[:1], loss=square_error)
    assert torch.equal(model.w, before)


def test_an_operand_written_to_later_is_an_error() -> None:
    def forward(p: Any, x: Tensor) -> Tensor:
        h = F.linear(x, p.w)
        y = F.linear(h, p.v)
        h.add_(1)
        return y

    model = prepared(lambda: Using(forward, w=(5, 5), v=(5, 5)))
    with pytest.raises(RuntimeError, match=r"^an operand of `v` has been modified by an inplace operation"):
        fisher_diagonal(model, randn(N, 5, seed=1), TARGETS, loss=square_error)
