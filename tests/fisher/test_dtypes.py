"""Results are float32, or float64 for float64 models, also for half types and under autocast."""

from typing import Any

import pytest
import torch
from asserts import prepared, square_error
from cases import randn
from fisher.small_modules import TARGETS, N
from torch import nn

from fastforget.fisher.compute import fisher_diagonal


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_models_have_float32_results(dtype: torch.dtype) -> None:
    build = lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 4))  # noqa: E731
    x = randn(N, 3, 5, 5, seed=1)
    half = fisher_diagonal(prepared(build).to(dtype), x.to(dtype), TARGETS.to(dtype), loss=square_error)
    full = fisher_diagonal(prepared(build), x, TARGETS, loss=square_error)
    for name, value in half.items():
        assert value.dtype == torch.float32
        assert (value - full[name]).norm() < 0.05 * full[name].norm()


@pytest.mark.parametrize("size", [1e-9, 1e-6, 1.0, 100.0])
@pytest.mark.parametrize("kind", ["fused", "fallback", "batch"])
def test_gradients_of_small_losses_do_not_vanish_in_float16(kind: str, size: float) -> None:
    """Below 6e-8 float16 has no number but zero, in the model's own backward too."""

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return size * square_error(outputs.double(), targets.double())

    build = lambda: nn.Sequential(  # noqa: E731
        nn.Linear(5, 8), nn.PReLU(8) if kind == "fallback" else nn.Tanh(), nn.Linear(8, 4)
    )
    x, model = randn(N, 5, seed=1), prepared(build)
    half = model.half()
    wide = prepared(build).double()
    wide.load_state_dict(half.state_dict())
    settings: dict[str, Any] = {"loss": loss, "with_gradient": True, "square": "batch" if kind == "batch" else "sample"}
    found = fisher_diagonal(half, x.half(), TARGETS.half(), **settings)
    full = fisher_diagonal(wide, x.half().double(), TARGETS.double(), **settings)
    assert found.gradient is not None
    assert full.gradient is not None
    for name, value in full.items():
        assert (found[name] - value).norm() < 0.02 * value.norm()
        assert (found.gradient[name] - full.gradient[name]).norm() < 0.05 * value.sqrt().norm()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_default_eps_of_rms_norm_in_half_types(dtype: torch.dtype) -> None:
    """It is that of float32, in which PyTorch computes: with that of the half type, small inputs would vanish."""
    x = randn(N, 5, 6, dtype=dtype, seed=1) / 64
    half = fisher_diagonal(prepared(lambda: nn.RMSNorm(6)).to(dtype), x, TARGETS.to(dtype), loss=square_error)
    full = fisher_diagonal(prepared(lambda: nn.RMSNorm(6)), x.float(), TARGETS, loss=square_error)
    assert (half["weight"] - full["weight"]).norm() < 0.05 * full["weight"].norm()


def test_float64_models_have_float64_results() -> None:
    build = lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Flatten(), nn.Linear(72, 4))  # noqa: E731
    x = randn(N, 3, 5, 5, seed=1)
    double = fisher_diagonal(prepared(build).double(), x.double(), TARGETS.double(), loss=square_error)
    full = fisher_diagonal(prepared(build), x, TARGETS, loss=square_error)
    for name, value in double.items():
        assert value.dtype == torch.float64
        assert (value - full[name]).norm() < 1e-5 * full[name].norm()


def test_autocast_is_followed() -> None:
    build = lambda: nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.LayerNorm(8), nn.Linear(8, 4))  # noqa: E731
    x = randn(N, 5, seed=1)
    full = fisher_diagonal(prepared(build), x, TARGETS, loss=square_error)
    with torch.autocast("cpu", torch.bfloat16):
        found = fisher_diagonal(prepared(build), x, TARGETS, loss=square_error)
    assert found.fallback == {}
    for name, value in found.items():
        assert (value - full[name]).norm() < 0.1 * full[name].norm()
