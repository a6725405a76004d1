"""What an engine must show before its callable is used."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from asserts import assert_same_bits
from torch import Tensor, nn

from fastforget.serving.engines import Rebuilt
from fastforget.serving.engines.optional import require

Network = Callable[..., nn.Module]


def test_a_build_that_ignores_weights_is_refused(network: Network, images: Tensor) -> None:
    fixed = network()
    with pytest.raises(
        ValueError, match=r"^the engine must run the weights it is given, got the outputs of those from"
    ):
        Rebuilt(lambda _: fixed, example=images).check(network())

    def half(model: nn.Module) -> nn.Module:
        """Takes the head only."""
        made = copy.deepcopy(fixed)
        made[-1] = model[-1]
        return made

    with pytest.raises(
        ValueError, match=r"^outputs must be those of the eager model within 0.0001, got a difference of"
    ):
        Rebuilt(half, example=images).check(network())


def test_a_build_that_goes_wrong_later_changes_nothing(network: Network, images: Tensor) -> None:
    builds: list[nn.Module] = []

    def build(model: nn.Module) -> Any:
        builds.append(model)
        if len(builds) == 3:
            raise OSError("no space left")
        return {4: builds[0], 5: None}.get(len(builds), model)

    engine = Rebuilt(build, example=images)
    engine.check(network())
    before = engine(images)
    with pytest.raises(OSError, match="no space left"):
        engine.stage(network(1))
    with pytest.raises(ValueError, match=r"^the engine must run the weights it is given"):
        engine.stage(network(1))
    with pytest.raises(ValueError, match=r"^`build` must return what can be called, got NoneType$"):
        engine.stage(network(1))
    assert_same_bits(engine(images), before)
    engine.stage(network(1))()
    assert not torch.equal(engine(images), before)


def test_tolerance(network: Network, images: Tensor) -> None:
    """Absolute for small outputs and relative for large ones."""
    model = network()
    for run in (lambda made: lambda x: made(x) + 1e-3, lambda made: lambda x: made(x) * 1.001):
        Rebuilt(run, example=images, tolerance=1e-2).check(model)
        with pytest.raises(
            ValueError, match=r"^outputs must be those of the eager model within 1e-06, got a difference"
        ):
            Rebuilt(run, example=images, tolerance=1e-6).check(model)
        model[-1].weight.data *= 1e4


def test_outputs_must_fit(network: Network, images: Tensor) -> None:
    with pytest.raises(
        ValueError, match=r"^outputs must have shapes \[\(5, 3\)\], as those of the eager model, got \[\]"
    ):
        Rebuilt(lambda _: lambda _: None, example=images).check(network())
    with pytest.raises(ValueError, match=r"^outputs must have shapes \[\(5, 3\)\].*got \[\(5,\)\]$"):
        Rebuilt(lambda model: lambda x: model(x)[:, 0], example=images).check(network())
    with pytest.raises(ValueError, match=r"^the engine must take the example inputs: mat1 and mat2 shapes cannot be"):
        Rebuilt(lambda model: lambda x: model(x[..., :4]), example=images).check(network())
    with pytest.raises(ValueError, match=r"^outputs must be those of the eager model.*got a difference of inf"):
        Rebuilt(lambda model: lambda x: model(x) * torch.nan, example=images).check(network())


class Masked(nn.Module):
    """Minus infinity for the last class, changes its input, and has a layer that is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.spare = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        outputs = self.head(x.mul_(2.0))
        return torch.cat([outputs, torch.full_like(outputs[:, :1], -torch.inf)], 1)


def test_infinite_outputs_and_inputs_that_change() -> None:
    example = torch.ones(2, 4)
    engine = Rebuilt(lambda model: model, example=example)
    engine.check(Masked().eval())
    edited = Masked().eval()
    engine.stage(edited)()
    with torch.no_grad():
        assert_same_bits(engine(torch.ones(2, 4)), edited(torch.ones(2, 4)))
    assert torch.equal(example, torch.ones(2, 4))


def test_faults(network: Network, images: Tensor) -> None:
    for tolerance in (0, -1.0, float("nan"), float("inf"), True, "1"):
        with pytest.raises(ValueError, match=r"^`tolerance` must be a positive number, got"):
            Rebuilt(lambda model: model, example=images, tolerance=tolerance)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^`build` must be a function of a module, got str$"):
        Rebuilt("torch.compile", example=images)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^`model` must be in eval mode"):
        Rebuilt(lambda model: model, example=images).check(network().train())
    with pytest.raises(ValueError, match=r"^`example` must be inputs whose outputs depend on the weights"):
        Rebuilt(lambda model: model, example=torch.zeros(2, 4)).check(nn.Linear(4, 3, bias=False).eval())


def test_missing_packages() -> None:
    with pytest.raises(
        ImportError, match=r"^`nothing_of_this_name` must be installed: pip install 'fastforget\[onnx\]'$"
    ):
        require("nothing_of_this_name", "onnx")
