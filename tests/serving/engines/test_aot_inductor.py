"""Packages that cannot be given other weights."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from asserts import assert_same_bits
from torch import Tensor, nn

from fastforget.serving.engines import AOTInductor


def head() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval()


@pytest.mark.slow
def test_weights_in_the_code_are_refused(package: Callable[..., str], images: Tensor) -> None:
    """A small vector, by default."""
    model = head()
    engine = AOTInductor(package(model), example=images)
    with pytest.raises(ValueError, match=r"got none for \['1.bias'\].*\"always_keep_tensor_constants\": True"):
        engine.check(model)


@pytest.mark.slow
def test_a_package_without_weights_is_refused(package: Callable[..., str], images: Tensor) -> None:
    """To run it would end the process."""
    path = package(head(), **{"aot_inductor.package_constants_in_so": False})
    with pytest.raises(ValueError, match=r"^the package must hold its weights; make it with package_constants_in_so"):
        AOTInductor(path, example=images)


@pytest.mark.slow
def test_inputs_of_any_layout(packaged: str, network: Callable[..., nn.Module], images: Tensor) -> None:
    """The package itself would give wrong answers for channels-last, and read past the end of a small image."""
    model = network()
    engine = AOTInductor(packaged, example=images)
    engine.check(model)
    expected, last = engine(images), images.to(memory_format=torch.channels_last)
    assert not torch.allclose(engine._predictor(last), expected, atol=0.1)
    for same in (
        last,
        images.mT.contiguous().mT,
        torch.cat([images, images], 1)[:, :1],
        images.clone().requires_grad_(),
    ):
        assert_same_bits(engine(same), expected)
    for wrong in (images[:4], images[..., :4], images[:, None], images[0]):
        with pytest.raises(ValueError, match=r"^input 0 must have shape \(5, 1, 8, 8\), got \("):
            engine(wrong)
    with pytest.raises(TypeError, match=r"^input 0 must be a tensor of torch.float32, got torch.float64$"):
        engine(images.double())
    with pytest.raises(ValueError, match=r"^inputs by name must be \[\], got \['x'\]$"):
        engine(x=images)
    with pytest.raises(ValueError, match=r"^inputs by name must be \[\], got \['input'\]$"):
        AOTInductor(packaged, example={"input": images})


def test_faults(images: Tensor, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"^`path` must be a package, got no file"):
        AOTInductor(tmp_path / "missing.pt2", example=images)
    (tmp_path / "text.pt2").write_text("text")
    with pytest.raises(ValueError, match=r"^`path` must be a package of AOTInductor, got"):
        AOTInductor(tmp_path / "text.pt2", example=images)
    for runners in (0, True, 1.5):
        with pytest.raises(ValueError, match=r"^`runners` must be a positive number, got"):
            AOTInductor(tmp_path, example=images, runners=runners)  # type: ignore[arg-type]
