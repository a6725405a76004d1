"""`one_shot` changes values of parameters and nothing else, and the same bits each time."""

import copy
from typing import Any

import pytest
import torch
from asserts import threads
from class_forgetting.one_shot_cases import RHO
from known_codes import CLASSES, assert_holds, convnet, copied_tensors, edits_values_only, model_with_codes
from torch import Tensor, nn

from fastforget import MnemonicCodes, Receipt, one_shot
from fastforget.demo.data import Dataset


def test_leaves_the_state_of_the_model_alone() -> None:
    model, codes = model_with_codes(convnet)
    model.get_parameter("4.bias").grad = torch.ones(CLASSES)
    model.get_parameter("0.weight").requires_grad_(False)
    with edits_values_only(model):
        one_shot(model, codes, 1, rho=RHO, parameters=[name for name, _ in model.named_parameters()])


@pytest.mark.parametrize("rule", ["natural", "paper"])
def test_autograd_notices_the_edit(rule: Any) -> None:
    model, codes = model_with_codes()
    loss = model(codes.inputs).square().sum()
    versions = {name: parameter._version for name, parameter in model.named_parameters()}
    receipt = one_shot(model, codes, 1, rule=rule, rho=0.5)
    for name, parameter in model.named_parameters():
        assert (parameter._version > versions[name]) == (name in receipt.edits)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


class Restless(nn.Module):
    """Counts its calls, also in eval mode."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.get_buffer("calls").add_(1)
        return self.inside(x)


@pytest.mark.parametrize("rule", ["natural", "paper"])
def test_buffers_of_a_model_that_writes_to_them(rule: Any) -> None:
    inside, codes = model_with_codes()
    model = Restless(inside).eval()
    floor = (codes.inputs, codes.labels, 0.5)
    with edits_values_only(model):
        one_shot(model, codes, 1, rule=rule, rho=RHO, floor=None if rule == "paper" else floor)


@pytest.mark.parametrize("rule", ["natural", "paper"])
def test_same_bits_twice_and_for_any_number_of_threads(
    rule: Any, trained: tuple[nn.Module, MnemonicCodes, Dataset]
) -> None:
    runs: list[tuple[nn.Module, Receipt]] = []
    for count in (1, 1, 2):
        model = copy.deepcopy(trained[0])
        with threads(count):
            runs.append((model, one_shot(model, trained[1], 4, rule=rule)))
    for model, receipt in runs[1:]:
        assert_holds(model, copied_tensors(runs[0][0]))
        assert receipt.alpha == runs[0][1].alpha
        assert (receipt.before, receipt.after) == (runs[0][1].before, runs[0][1].after)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode], ids=lambda c: c.__name__)
def test_within_contexts_that_switch_gradients_off(context: Any) -> None:
    model, codes = model_with_codes()
    expected = model_with_codes()[0]
    one_shot(expected, codes, 1, rho=RHO)
    with context():
        receipt = one_shot(model, codes.tensor.clone(), 1, rho=RHO)  # under inference_mode an inference tensor
        assert_holds(model, copied_tensors(expected))
        receipt.revert(model)
        receipt.apply(model)
    assert_holds(model, copied_tensors(expected))
