"""`recording` and `recorded`: the receipt of any code that edits a model."""

import copy
import math
from typing import Any

import pytest
import torch
from known_codes import assert_holds, convnet, copied_tensors, mlp, refused
from torch import Tensor, nn

from fastforget import Receipt, fingerprint
from fastforget.edits import recorded, recording

X = torch.randn(8, 2, 4, 4, generator=torch.Generator().manual_seed(0))


@recorded
def train(model: nn.Module, forget: Tensor, remain: Tensor, *, lr: float, name: str = "x", other: Any = None) -> str:
    """Move parameters and the statistics of batch norms."""
    assert other is None or forget is not None
    model.train()
    model(remain).square().sum().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.sub_(lr * parameter.grad)
    model.eval().zero_grad()
    return "dropped"


def test_a_method_of_ones_own_has_a_receipt() -> None:
    model = convnet()
    original = copy.deepcopy(model)
    receipt = train(model, X, X, lr=1e-3, name="mine", other=[])
    assert isinstance(receipt, Receipt)
    assert (receipt.rule, receipt.settings) == ("train", {"lr": 1e-3, "name": "mine"})
    assert (receipt.before, receipt.after) == (fingerprint(original), fingerprint(model))
    assert receipt.edits.keys() > {"0.weight", "1.running_mean"}
    assert receipt.seconds["total"] > 0
    edited = copied_tensors(model)
    receipt.revert(model)
    assert_holds(model, copied_tensors(original))
    receipt.apply(model)
    assert_holds(model, edited)


def test_what_is_recorded_is_the_module_behind_a_compiled_one() -> None:
    model = mlp()
    with recording(torch.compile(model, backend="eager"), "zeros", classes=2) as edit:  # type: ignore[arg-type]
        assert edit.model is model
        with pytest.raises(RuntimeError, match=r"^`receipt` is there once the block"):
            _ = edit.receipt
        nn.init.zeros_(model.get_parameter("2.bias"))
    assert edit.receipt.classes == (2,)
    assert edit.receipt.edits.keys() == {"2.bias"}


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_values_that_are_not_finite_are_put_back(wrong: float) -> None:
    model = convnet()
    with (
        refused(model, ValueError, r"must be finite, got NaN or infinity in `1\.running_var`"),
        recording(model, "spoilt"),
        torch.no_grad(),
    ):
        model.get_parameter("0.weight").zero_()
        model.get_buffer("1.running_var")[0] = wrong


def test_after_an_error_of_the_method_all_is_put_back() -> None:
    model = convnet()

    @recorded
    def breaks(model: nn.Module) -> None:
        with torch.no_grad():
            model.get_parameter("0.weight").zero_()
            model.get_buffer("1.running_mean").add_(1)
        raise KeyError("mine")

    with refused(model, KeyError, "mine"):
        breaks(model)


def test_a_parameter_that_was_replaced_is_recorded_and_put_back() -> None:
    model = mlp()
    original = copied_tensors(model)

    def replace() -> None:
        layer = model.get_submodule("0")
        layer.weight = nn.Parameter(layer.weight.detach() * 2)

    with recording(model, "twice") as edit:
        replace()
    assert edit.receipt.edits.keys() == {"0.weight"}
    edit.receipt.revert(model)
    assert_holds(model, original)

    def fail() -> None:
        replace()
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"), recording(model, "twice"):
        fail()
    assert_holds(model, original)


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (nn.Linear(6, 32), r"`0\.weight` was \(\(64, 6\), torch\.float32\) and is \(\(32, 6\), torch\.float32\)$"),
        (nn.Linear(6, 64, bias=False), r"`0\.bias` was .* and is none$"),
        (nn.Linear(6, 64).double(), r"`0\.weight` was .* and is \(\(64, 6\), torch\.float64\)$"),
    ],
)
def test_the_architecture_must_stay(layer: nn.Module, text: str) -> None:
    model = mlp()
    with pytest.raises(ValueError, match=text), recording(model, "other"):
        model.register_module("0", layer)


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"rule": 3}, TypeError, "^`rule` must be a text, got int$"),
        ({"classes": [1, 1]}, ValueError, "^`classes` must name each class once"),
        ({"settings": {"lr": [1]}}, TypeError, r"^`settings` must hold numbers and texts by name, got \[1\] for 'lr'$"),
    ],
)
def test_refused_before_anything_is_done(given: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text), recording(mlp(), **{"rule": "mine", **given}):
        pytest.fail("the block ran")
