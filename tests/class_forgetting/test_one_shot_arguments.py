"""`one_shot` takes classes, codes, parameters and models in every form that it documents."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from asserts import assert_close, assert_same_bits
from class_forgetting.one_shot_cases import FREE, RHO
from known_codes import TwoInputs, assert_holds, convnet, copied_tensors, edits_values_only, mlp, model_with_codes
from torch import Tensor, nn

from fastforget import MnemonicCodes, ShallowForgettingWarning, one_shot
from fastforget.classifier.losses import log_odds
from fastforget.classifier.running import forward


def test_a_share_may_be_an_integer() -> None:
    model, codes = model_with_codes()
    found = [one_shot(copy.deepcopy(model), codes, 1, rho=rho, spill=FREE) for rho in (1, 1.0)]
    assert found[0].after == found[1].after
    assert found[0].share > 0.9


@pytest.mark.parametrize(
    "cls",
    [2, [2], (2,), np.int64(2), np.array(2), np.array([2]), torch.tensor(2), torch.tensor([2]), range(2, 3)],
    ids=repr,
)
def test_any_way_to_name_one_class(cls: Any) -> None:
    model, codes = model_with_codes()
    receipt = one_shot(model, codes, cls, rho=RHO)
    assert receipt.classes == (2,)
    reference = model_with_codes()[0]
    one_shot(reference, codes, 2, rho=RHO)
    assert_holds(model, copied_tensors(reference))


def test_several_classes_in_any_order() -> None:
    runs = []
    for cls in ([0, 3], (3, 0), np.array([3, 0])):
        model, codes = model_with_codes(convnet)
        receipt = one_shot(model, codes, cls, rho=0.5)  # type: ignore[arg-type]
        assert receipt.classes == (0, 3)
        runs.append(copied_tensors(model))
        odds = log_odds(model(codes.inputs), codes.labels)
        assert all(odds[codes.labels == c].mean() < -5.8 for c in (0, 3))
    for run in runs[1:]:
        for name, value in runs[0].items():
            assert_same_bits(run[name], value)


@pytest.mark.parametrize("build", [mlp, convnet])
@pytest.mark.parametrize("per_class", [1, 2])
def test_tensors_of_codes(build: Any, per_class: int) -> None:
    model, codes = model_with_codes(build, per_class=per_class)
    one_shot(model, codes, 1, rho=RHO)
    for tensor in [codes.tensor, codes.tensor.double(), *([codes.tensor[:, 0]] if per_class == 1 else [])]:
        other = model_with_codes(build, per_class=per_class)[0]
        before = tensor.clone()
        one_shot(other, tensor, 1, rho=RHO)
        assert_holds(other, copied_tensors(model))
        assert torch.equal(tensor, before)


@pytest.mark.parametrize("named", [False, True])
def test_inputs_that_are_a_tuple_or_a_dict(named: bool) -> None:
    model, codes = model_with_codes(TwoInputs, named=named)
    before = copied_tensors(model)
    with edits_values_only(model):
        receipt = one_shot(model, codes, 3, rho=RHO, output_row=False, spill=FREE)
    odds = log_odds(forward(model, codes.inputs), codes.labels)
    assert odds[codes.labels == 3].mean().item() == pytest.approx(-6, abs=0.11)
    receipt.revert(model)
    assert_holds(model, before)


class TokenNet(nn.Module):
    """Takes integers, and returns an object with logits."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(20, 16), nn.Linear(16, 3, bias=False)

    def forward(self, tokens: Tensor) -> Any:
        from types import SimpleNamespace

        return SimpleNamespace(logits=self.head(self.table(tokens).mean(1)))


def test_integer_codes_and_outputs_with_logits() -> None:
    torch.manual_seed(0)
    model, tokens = TokenNet().eval(), torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8], [9, 1, 11, 12]])
    with torch.no_grad():
        model.head.weight.copy_(5 * (F.normalize(model.table(tokens).mean(1)) + 0))
    for codes in (tokens, tokens[:, None], MnemonicCodes.from_tensors(tokens[:, None])):
        edited = copy.deepcopy(model)
        one_shot(edited, codes, 0, rho=0.5)
        assert edited(tokens).logits.argmax(1)[0] != 0


def test_only_named_parameters_move() -> None:
    model, codes = model_with_codes()
    before = copied_tensors(model)
    model.get_parameter("0.weight").requires_grad_(False)
    # Without the bias.
    text = r"^the class is \d\.\d nats beyond the decision boundary, short of the goal of 12\.0\. To go further: "
    with edits_values_only(model), pytest.warns(ShallowForgettingWarning, match=text):
        receipt = one_shot(model, codes, 1, rho=0.5, parameters=["2.weight", "0.weight"], output_depth=12)
    assert set(receipt.edits) == {"2.weight", "0.weight"}
    assert receipt.total == 708
    for name in ("0.bias", "2.bias"):
        assert_same_bits(copied_tensors(model)[name], before[name])


def test_without_undo() -> None:
    model, codes = model_with_codes()
    other = model_with_codes()[0]
    receipt = one_shot(model, codes, 1, rho=RHO, undo=False)
    assert not receipt.reversible
    assert all(edit.old is None for edit in receipt.edits.values())
    one_shot(other, codes, 1, rho=RHO)
    assert_holds(model, copied_tensors(other))


def test_a_compiled_model() -> None:
    model, codes = model_with_codes()
    expected = model_with_codes()[0]
    compiled = torch.compile(model, backend="eager")
    assert_close(compiled(codes.inputs), model(codes.inputs))
    one_shot(compiled, codes, 1, rho=RHO)  # type: ignore[arg-type]
    one_shot(expected, codes, 1, rho=RHO)
    assert_holds(model, copied_tensors(expected))
    assert torch.equal(compiled(codes.inputs), model(codes.inputs))


@pytest.mark.parametrize("rule", ["natural", "paper"])
def test_channels_last_parameters(rule: Any) -> None:
    plain, codes = model_with_codes(convnet)
    model = model_with_codes(convnet)[0].to(memory_format=torch.channels_last)
    before = copied_tensors(model)
    with edits_values_only(model):
        receipt = one_shot(model, codes, 1, rule=rule, rho=RHO)
    one_shot(plain, codes, 1, rule=rule, rho=RHO)
    for name, value in copied_tensors(plain).items():
        assert_close(copied_tensors(model)[name], value, 1e-4, name)
    assert not model.get_parameter("0.weight").is_contiguous()
    receipt.revert(model)
    assert_holds(model, before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rule", ["natural", "paper"])
def test_other_types(dtype: torch.dtype, rule: Any) -> None:
    model, codes = model_with_codes()
    model.to(dtype)
    before = copied_tensors(model)
    with edits_values_only(model):
        receipt = one_shot(model, codes, 1, rule=rule, rho=RHO, output_row=False, spill=FREE)
    if rule == "natural":
        odds = log_odds(model(codes.to(dtype).inputs), codes.labels)
        assert odds[codes.labels == 1].mean().item() == pytest.approx(-6, abs=0.11)
    receipt.revert(model)
    assert_holds(model, before)


def test_tied_parameters_move_together() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 4, bias=False)
            self.second = nn.Linear(4, 4, bias=False)
            self.second.weight = self.first.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.second(torch.tanh(self.first(x)))

    model = Tied().eval()
    with torch.no_grad():
        model.first.weight.copy_(3 * torch.eye(4))
    codes = torch.eye(4)
    before = copied_tensors(model)
    text = (
        r"^the class is not disconnected, because the weights that produce the logits, `first.weight` and "
        r"`second.weight`, serve elsewhere too \(tied weights\); nothing but the step in the body hides it\. To go "
        r"further: "
    )
    with pytest.warns(ShallowForgettingWarning, match=text):
        receipt = one_shot(model, codes, 2, rho=0.5, depth=1.0)
    assert model.second.weight is model.first.weight
    assert list(receipt.edits) == ["first.weight"]
    assert log_odds(model(codes), torch.arange(4))[2].item() == pytest.approx(-1, abs=0.11)
    receipt.revert(model)
    assert_holds(model, before)
