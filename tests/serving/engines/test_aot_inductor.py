"""Packages that cannot be given other weights."""

from collections.abc import Callable
from pathlib import Path

import pytest
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


def test_faults(images: Tensor, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"^`path` must be a package, got no file"):
        AOTInductor(tmp_path / "missing.pt2", example=images)
    (tmp_path / "text.pt2").write_text("text")
    with pytest.raises(ValueError, match=r"^`path` must be a package of AOTInductor, got"):
        AOTInductor(tmp_path / "text.pt2", example=images)
    for runners in (0, True, 1.5):
        with pytest.raises(ValueError, match=r"^`runners` must be a positive number, got"):
            AOTInductor(tmp_path, example=images, runners=runners)  # type: ignore[arg-type]
