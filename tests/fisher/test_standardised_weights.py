"""Convolutions whose weight is standardised by a batch norm over its rows, as in timm's NFNet and BiT."""

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from asserts import assert_close, assert_fisher, prepared, square_error
from cases import randn
from fisher.small_modules import TARGETS, N, Using
from torch import Tensor

from fastforget.fisher.capture.recognisers import standardised
from fastforget.fisher.compute import fisher_diagonal

SHAPES = {"w": (4, 3, 3, 3), "g": (4, 1, 1, 1), "b": (4,)}


def weight_of(p: Any, gain: Tensor | None) -> Tensor:
    rows = p.w.reshape(1, p.w.shape[0], -1)
    return F.batch_norm(rows, None, None, weight=gain, training=True, momentum=0.0, eps=1e-4).reshape_as(p.w)


def scaled(p: Any, x: Tensor, **moves: Any) -> Tensor:
    """A gain times a constant, and a bias, as in NFNet."""
    return F.conv2d(x, weight_of(p, (p.g * 0.3).view(-1)), p.b, **moves)


def twice(p: Any, x: Tensor) -> Tensor:
    return scaled(p, scaled(p, x, padding=1)[:, :3], padding=1)


def small_beside_the_bias(p: Any, x: Tensor) -> Tensor:
    return F.conv2d(x, weight_of(p, p.g * 1e-4), p.b) * 100


def also_elsewhere(p: Any, x: Tensor) -> Tensor:
    """The raw weight, and the standardised one, used otherwise too."""
    weight = weight_of(p, None)
    return F.conv2d(x, weight, padding=1) * weight.square().sum((1, 2, 3)).view(-1, 1, 1) + p.w.sum()


def written_to(p: Any, x: Tensor) -> Tensor:
    """The output, which is needed in backward, is gone by then."""
    return F.conv2d(x, weight_of(p, p.g)).mul_(2)


def of_frames(p: Any, x: Tensor) -> Tensor:
    return scaled(p, x.flatten(0, 1), padding=1).unflatten(0, (len(x), 2))


IMAGE = (3, 6, 5)
CASES: dict[str, tuple[Callable[..., Tensor], dict[str, tuple[int, ...]], tuple[int, ...]]] = {
    "no gain": (lambda p, x: F.conv2d(x, weight_of(p, None)), {"w": (4, 3, 3, 3)}, IMAGE),
    "a gain that is a parameter": (lambda p, x: F.conv2d(x, weight_of(p, p.g)), {"w": (4, 3, 3, 3), "g": (4,)}, IMAGE),
    "a scaled gain": (scaled, SHAPES, IMAGE),
    "strides and dilation": (lambda p, x: scaled(p, x, stride=2, padding=2, dilation=(1, 2)), SHAPES, IMAGE),
    "groups": (lambda p, x: scaled(p, x, groups=2, padding=1), SHAPES, (6, 5, 6)),
    "one dimension": (
        lambda p, x: F.conv1d(x, weight_of(p, None), p.b, padding=1),
        {"w": (4, 5, 3), "b": (4,)},
        (5, 6),
    ),
    "a kernel of one": (
        scaled, {"w": (4, 12, 1, 1), "g": (4, 1, 1, 1), "b": (4,)}, (12, 3, 3)
    ),
    "a row of three": (lambda p, x: F.conv1d(x, weight_of(p, None)), {"w": (4, 1, 3)}, (1, 6)),
    "used twice": (twice, SHAPES, IMAGE),
    "used otherwise too": (also_elsewhere, {"w": (4, 3, 3, 3)}, IMAGE),
    "output written to": (written_to, {"w": (4, 3, 3, 3), "g": (4,)}, IMAGE),
    "small beside the bias": (small_beside_the_bias, {"w": (4, 3, 3, 3), "g": (4,), "b": (4,)}, IMAGE),
    "frames": (of_frames, SHAPES, (2, *IMAGE)),
}  # fmt: skip


@pytest.mark.parametrize("weights", [None, randn(2, N, seed=3).abs()], ids=["mean", "groups of weights"])
@pytest.mark.parametrize("name", CASES)
def test_standardised(name: str, weights: Tensor | None) -> None:
    function, shapes, size = CASES[name]
    assert_fisher(lambda: Using(function, **shapes), randn(N, *size, seed=1), TARGETS, weights=weights)


def test_a_gain_of_zero() -> None:
    """The output says nothing of the gradient then."""

    def forward(p: Any, x: Tensor) -> Tensor:
        return scaled(p, x) + F.conv2d(x, p.w)

    model, x = prepared(lambda: Using(forward, **SHAPES)), randn(N, *IMAGE, seed=1)
    with torch.no_grad():
        model.g[1] = 0
    found = fisher_diagonal(model, x, TARGETS, loss=square_error)
    exact = fisher_diagonal(model.double(), x.double(), TARGETS.double(), loss=square_error)
    rows = [(x[n : n + 1].double(), TARGETS[n : n + 1].double()) for n in range(N)]
    alone = torch.stack([fisher_diagonal(model, *row, loss=square_error)["g"] for row in rows]).mean(0)
    assert float(alone[1]) > 0
    assert_close(found["g"], alone)
    assert_close(exact["g"], alone)


@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_the_samples_go_one_by_one_only_where_little_is_left(offset: float) -> None:
    """Patches that are nearly constant: the mean of the gradient is nearly all of it."""
    function, shapes, size = CASES["no gain"]
    x = randn(N, *size, seed=1) + offset
    with mock.patch.object(
        standardised.StandardisedUses,
        "_left_one_by_one",
        autospec=True,
        side_effect=standardised.StandardisedUses._left_one_by_one,
    ) as one_by_one:
        model = prepared(lambda: Using(function, **shapes))
        found = fisher_diagonal(model, x, TARGETS, loss=square_error)
    assert one_by_one.called == (offset > 0)
    exact = fisher_diagonal(model.double(), x.double(), TARGETS.double(), loss=square_error)
    assert_close(found["w"], exact["w"], tolerance=1e-4)


def test_half_precision_takes_the_general_way() -> None:
    function, shapes, size = CASES["no gain"]
    model, x = prepared(lambda: Using(function, **shapes)).bfloat16(), randn(N, *size, seed=1)
    found = fisher_diagonal(model, x.bfloat16(), TARGETS, loss=square_error)
    exact = fisher_diagonal(model.double(), x.bfloat16().double(), TARGETS.double(), loss=square_error)
    assert not found.fallback
    assert_close(found["w"], exact["w"], tolerance=0.05)
