"""Where rows cannot move, the output bias alone hides the class; and biases make up for what the step does."""

import copy
from typing import Any

import pytest
import torch
from asserts import assert_close
from class_forgetting.one_shot_cases import FREE, RHO, logits
from known_codes import CLASSES, assert_holds, convnet, copied_tensors, digits, mlp, model_with_codes, refused
from torch import Tensor, nn

from fastforget import ForgettingError, Receipt, ShallowForgettingWarning, one_shot

HIDDEN = (
    r"^the class is not disconnected, because `2.weight` is not among .* its output bias hides it\. To go further: "
    r".*`learn_to_unlearn` "
)


class Scaled(nn.Module):
    """Divides its logits by a temperature; a norm of as many features as there are classes comes before them."""

    def __init__(self, inner: nn.Module, temperature: float) -> None:
        super().__init__()
        self.inner, self.norm, self.temperature = inner, nn.LayerNorm(CLASSES), temperature

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x - 0 * self.norm(x[:, :CLASSES]).sum()) / self.temperature


@pytest.mark.parametrize("temperature", [0.01, 0.5, 1.0, 1.9, 7.0])
def test_the_bias_alone_moves_the_logit_of_its_class_alone(temperature: float) -> None:
    inner, codes = model_with_codes()
    model = Scaled(inner, temperature).eval()
    stepped, settings = copy.deepcopy(model), {"rho": RHO, "spill": FREE}
    names = ["inner.0.weight", "inner.0.bias", "inner.2.bias", "norm.weight", "norm.bias"]
    loud = one_shot(stepped, codes, 1, output_row=False, parameters=names, **settings)
    with pytest.warns(ShallowForgettingWarning, match=HIDDEN.replace("`2", "`inner.2")):
        quiet = one_shot(model, codes, 1, parameters=names, **settings)
    lowered = quiet.evidence["silenced_by"]
    difference = logits(stepped, codes) - logits(model, codes)
    assert loud.evidence["silenced_by"] == 0 < lowered
    assert (quiet.evidence["disconnected"], quiet.claims) == (0, ("silenced",))
    assert_close(difference[:, 1], torch.full_like(difference[:, 1], lowered), 1e-5)
    assert difference[:, 1].std() < 1e-6 * lowered  # the same for all inputs
    # The biases of the others make up for what the step did on average, if at all.
    assert difference[:, [0, 2, 3]].std(0).max() < 1e-5 * (lowered + 1 / temperature)
    odds = (receipt.evidence["forget_log_odds_after"] for receipt in (quiet, loud))
    assert next(odds) == next(odds)
    assert "inner.2.bias" in quiet.edits
    assert bool((logits(model, codes).argmax(1) != 1).all())


@pytest.mark.parametrize("build", [mlp, convnet])
def test_the_biases_make_up_for_the_step(build: Any) -> None:
    """On average over the remaining codes, each remaining class has the logit that it had, but for one constant."""
    model, codes = model_with_codes(build)
    loud, before = copy.deepcopy(model), logits(model, codes)
    one_shot(loud, codes, 1, rho=0.3, output_row=False, spill=1.0)
    one_shot(model, codes, 1, rho=0.3, spill=1.0)
    rest = [0, 2, 3]

    def shifts(one: nn.Module) -> Tensor:
        return (logits(one, codes) - before)[codes.labels != 1][:, rest].mean(0)

    assert shifts(loud).std() > 0.01
    assert shifts(model).std() < 1e-4
    assert_close(shifts(model).mean(), shifts(loud).mean(), 1e-3)


def test_every_other_class_keeps_its_lead() -> None:
    """Where nothing but the output bias moves, no prediction among the others changes."""
    original, codes, data = digits()
    model = copy.deepcopy(original)
    with pytest.warns(ShallowForgettingWarning, match=HIDDEN.replace("2.w", "8.w")):
        receipt = one_shot(model, codes, 4, parameters=["8.bias"], rho=0.1)
    assert set(receipt.edits) == {"8.bias"}
    with torch.no_grad():
        before, after = original(data.x_test), model(data.x_test)
    before[:, 4] = -torch.inf
    assert torch.equal(before.argmax(1), after.argmax(1))


class Mixed(nn.Module):
    """Has a parameter of one element per class that moves every logit."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.shift = inner, nn.Parameter(torch.zeros(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + self.shift + self.shift.flip(0) / 6


NOTHING_THERE = (
    "^`output_row` needs a linear layer that produces the logits, or an output bias, among the parameters that may "
    "move, but there is none, because `{}` is not among the parameters that may move; the model is unchanged$"
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_moves_other_logits_too_is_no_output_bias(dtype: torch.dtype) -> None:
    """Also where few digits would hide it: a sixth of the change counts."""
    inner, codes = model_with_codes()
    inner[2].bias = None
    model = Mixed(inner).eval().to(dtype)
    with refused(model, ForgettingError, NOTHING_THERE.format("inner.2.weight")):
        one_shot(model, codes, 1, rho=RHO, output_row=True, parameters=["inner.0.weight", "inner.0.bias", "shift"])


def test_a_model_without_output_bias() -> None:
    """Its row does what it can, and the receipt says how much that is."""
    model, codes = model_with_codes()
    head = model[2]
    assert isinstance(head, nn.Linear)
    head.bias = None
    before = copied_tensors(model)
    with refused(model, ForgettingError, NOTHING_THERE.format("2.weight")):
        one_shot(model, codes, 1, rho=RHO, output_row=True, parameters=["0.weight", "0.bias"])
    receipt = _shallow(model, codes, 1, rho=RHO, spill=FREE)
    assert (receipt.evidence["silenced_by"], receipt.evidence["disconnected"]) == (0, 1)
    found = logits(model, codes).double()
    depth = found[:, [0, 2, 3]].logsumexp(1) - found[:, 1]
    assert receipt.evidence["output_depth"] == pytest.approx(depth[codes.labels == 1].mean().item(), abs=1e-5)
    norms = head.weight.detach().norm(dim=1)
    assert norms[1] <= norms[[0, 2, 3]].max() * (1 + 1e-6)
    receipt.revert(model)
    assert_holds(model, before)


def _shallow(*args: Any, **settings: Any) -> Receipt:
    with pytest.warns(
        ShallowForgettingWarning,
        match=r"nats beyond the decision boundary, short of the goal of 12\.0\. To go further: ",
    ):
        return one_shot(*args, output_depth=12, **settings)


def test_a_bias_that_may_not_move() -> None:
    model, codes = model_with_codes()
    receipt = _shallow(model, codes, 1, rho=0.5, parameters=["0.weight", "2.weight"], spill=FREE)
    assert receipt.evidence["silenced_by"] == 0
    assert set(receipt.edits) <= {"0.weight", "2.weight"}


def test_the_papers_rule_changes_the_output_layer_on_demand() -> None:
    model, codes = model_with_codes()
    settings: dict[str, Any] = {"rule": "paper", "lambda1": 1e-6}
    receipt = one_shot(model, codes, 1, **settings)
    assert receipt.evidence["disconnected"] == 0
    receipt.revert(model)
    before = copied_tensors(model)
    receipt = one_shot(model, codes, 1, output_row=True, **settings)
    assert receipt.evidence["disconnected"] == 1
    assert bool((logits(model, codes).argmax(1) != 1).all())
    receipt.revert(model)
    assert_holds(model, before)


def test_a_warning_that_is_an_error_leaves_the_model_alone() -> None:
    model, codes = model_with_codes()
    with refused(model, ShallowForgettingWarning, HIDDEN):  # the tests make errors of warnings
        one_shot(model, codes, 1, rho=RHO, spill=FREE, parameters=["0.weight", "0.bias", "2.bias"])
