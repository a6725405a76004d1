"""fisher_diagonal under autocast: the gradients of what was computed, in the precision in which it was."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from asserts import assert_close, assert_same_bits, batch_one_loop, prepared, square_error
from cases import randn
from torch import Tensor, nn

from fastforget import ops
from fastforget.fisher.compute import fisher_diagonal
from fastforget.ops.reference import fisher_convolution, fisher_linear

N = 6
TARGETS = randn(N, seed=9)


class Product(nn.Module):
    """The ways to multiply by a matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(randn(5, 8, seed=1)), nn.Parameter(randn(8, 3, seed=2))
        self.shift = nn.Parameter(randn(3, seed=3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.shift, (x @ self.first).tanh(), self.second)


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3, 2), nn.GroupNorm(2, 6),
        nn.Tanh(), nn.Flatten(2), nn.LayerNorm(9), nn.Linear(9, 5), nn.Flatten(), nn.Linear(30, 4),
    )  # fmt: skip


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(5, 7), (5,)),
    "linear on tokens": (lambda: nn.Linear(5, 7), (6, 5)),
    "conv2d": (lambda: nn.Conv2d(3, 5, 3, padding=1), (3, 6, 7)),
    "conv2d transposed": (lambda: nn.ConvTranspose2d(3, 5, 3, 2, 1, 1), (3, 5, 6)),
    "products": (Product, (5,)),
    "layer norm": (lambda: nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6), nn.Linear(6, 2)), (4, 5)),
    "attention": (lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout=0, batch_first=True), (5, 8)),
    "network": (network, (3, 8, 8)),
}
# A gradient of the loop is rounded to bfloat16 before it is squared, to 2**-9; activations likewise, in other sums.
ROUNDED = 2e-2


def autocast() -> torch.autocast:
    return torch.autocast("cpu", dtype=torch.bfloat16)


@pytest.mark.parametrize("name", MODELS)
def test_is_what_the_loop_finds(name: str) -> None:
    build, shape = MODELS[name]
    model, x = prepared(build), randn(N, *shape)
    with autocast():
        expected, _ = batch_one_loop(model, x, TARGETS, square_error, torch.ones(1, N))
        found = fisher_diagonal(model, x, TARGETS, loss=square_error)
    assert found.fallback == {}
    largest = max(float(value.norm()) for value in expected.values())
    for key, value in expected.items():
        assert found[key].dtype == torch.float32
        if value.norm() > 1e-4 * largest:  # the bias of keys has no gradient but rounding
            assert_close(found[key], value[0], ROUNDED, key)


@pytest.mark.parametrize("layer", ["linear", "linear on tokens", "conv2d"])
def test_is_exact_in_what_was_multiplied(layer: str) -> None:
    """Against float64 sums over the rounded input and the gradient that reached the rounded output."""
    build, shape = MODELS[layer]
    model, x = prepared(build), randn(N, *shape)
    with autocast():
        output = model(x)
        assert output.dtype == torch.bfloat16
        (grad,) = torch.autograd.grad(square_error(output, TARGETS).sum(), output)
        found = fisher_diagonal(model, x, TARGETS, loss=square_error, reduction="sum")
    expected = torch.zeros_like(model.weight, dtype=torch.float64)[None]
    g, a, ones = grad.double(), x.bfloat16().double(), torch.ones(1, N, dtype=torch.float64)
    if layer == "conv2d":
        fisher_convolution(g, a, ones, [1, 1], [1, 1], [1, 1], 1, expected, None)
    else:
        fisher_linear(g.reshape(N, -1, 7), a.reshape(N, -1, 5), ones, expected, None)
    assert_close(found["weight"], expected[0], 1e-6)
    positions = g.flatten(2).sum(2) if layer == "conv2d" else g.reshape(N, -1, 7).sum(1)
    assert_close(found["bias"], positions.square().sum(0), 1e-6)


@pytest.mark.parametrize("name", ["linear", "conv2d", "network"])
def test_kernels_get_operands_of_one_type(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    build, shape = MODELS[name]
    model, x, seen = prepared(build), randn(N, *shape), []
    for kernel in ("fisher_linear", "fisher_convolution"):
        run = getattr(ops, kernel)

        def watched(
            grad: Tensor, input: Tensor, *rest: object, run: Callable[..., None] = run, **named: object
        ) -> None:
            seen.append((grad.dtype, input.dtype))
            run(grad, input, *rest, **named)

        monkeypatch.setattr(ops, kernel, watched)
    with autocast():
        fisher_diagonal(model, x, TARGETS, loss=square_error)
    assert set(seen) == {(torch.bfloat16, torch.bfloat16)}


def test_one_sample_alone_is_not_rounded_more() -> None:
    """As the only one and as one of two, the other without weight."""
    model, x = prepared(lambda: nn.Linear(5, 7)), randn(2, 6, 5)
    with autocast():
        alone = fisher_diagonal(model, x[:1], TARGETS[:1], loss=square_error, reduction="sum")
        weights = torch.tensor([1.0, 0.0])
        among = fisher_diagonal(model, x, TARGETS[:2], loss=square_error, weights=weights, reduction="sum")
    for name, value in alone.items():
        assert_close(value, among[name], 1e-6, name)


def test_wider_inputs_are_left_alone() -> None:
    """Autocast does not touch float64."""
    model, x = prepared(lambda: nn.Linear(5, 7)).double(), randn(N, 5).double()
    expected = fisher_diagonal(model, x, TARGETS.double(), loss=square_error)
    with autocast():
        found = fisher_diagonal(model, x, TARGETS.double(), loss=square_error)
    for name, value in expected.items():
        assert_same_bits(found[name], value)


def test_without_autocast_nothing_is_rounded() -> None:
    model, x = prepared(lambda: nn.Linear(5, 7)), randn(N, 5)
    exact, _ = batch_one_loop(
        prepared(lambda: nn.Linear(5, 7)).double(), x.double(), TARGETS.double(), square_error, torch.ones(1, N)
    )
    found = fisher_diagonal(model, x, TARGETS, loss=square_error)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=False):
        again = fisher_diagonal(model, x, TARGETS, loss=square_error)
    for name, value in found.items():
        assert_close(value, exact[name][0], 1e-5, name)
        assert_same_bits(again[name], value)


def test_cross_entropy_stays_in_float64() -> None:
    model, x = prepared(lambda: nn.Linear(5, 7)), randn(N, 5)
    with autocast():
        found = fisher_diagonal(model, x, torch.arange(N))
        expected = F.cross_entropy(model(x).double(), torch.arange(N), reduction="none")
    assert_same_bits(found.losses, expected.detach())
