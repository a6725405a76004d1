"""A floor shortens the step until the accuracy on the remaining classes holds."""

import math
from typing import Any

import pytest
import torch
from class_forgetting.one_shot_cases import FREE, RHO
from known_codes import CLASSES, assert_holds, convnet, copied_tensors, edits_values_only, model_with_codes
from torch import Tensor, nn

from fastforget import ForgettingError, MnemonicCodes, one_shot
from fastforget.classifier.losses import log_odds
from fastforget.edits.edit import write_edits


def floor_data(codes: MnemonicCodes) -> tuple[Tensor, Tensor]:
    """Samples around the codes."""
    noise = torch.randn(40, *codes.tensor.shape[2:], generator=torch.Generator().manual_seed(1))
    return codes.tensor.flatten(0, 1).repeat(5, 1, 1, 1) + noise, codes.labels.repeat(5)


def remaining_accuracy(model: nn.Module, inputs: Tensor, targets: Tensor, cls: int) -> float:
    right = model(inputs).argmax(1) == targets
    return float(right[targets != cls].double().mean())


def test_a_floor_that_holds_changes_nothing() -> None:
    model, codes = model_with_codes()
    expected = model_with_codes()[0]
    without = one_shot(expected, codes, 1, rho=RHO)
    receipt = one_shot(model, codes, 1, rho=RHO, floor=(codes.inputs, codes.labels, 0.5))
    assert receipt.alpha == without.alpha
    assert_holds(model, copied_tensors(expected))


def test_backs_off_until_the_floor_holds() -> None:
    model, codes = model_with_codes(convnet)
    expected = model_with_codes(convnet)[0]
    inputs, targets = floor_data(codes)
    full = one_shot(expected, codes, 0, rho=0.5, depth=30.0, output_row=False, spill=FREE)
    reached = remaining_accuracy(expected, inputs, targets, 0)
    accuracy = reached + 0.02
    receipt = one_shot(
        model, codes, 0, rho=0.5, depth=30.0, output_row=False, spill=FREE, floor=(inputs, targets, accuracy)
    )
    assert remaining_accuracy(model, inputs, targets, 0) >= accuracy
    assert receipt.alpha < full.alpha
    steps = math.log(receipt.alpha / full.alpha) / math.log(0.8)
    assert steps == pytest.approx(round(steps))
    # one step less does not hold it
    for edit in receipt.edits.values():
        assert edit.old is not None
        edit.new.copy_(edit.old + (edit.new - edit.old) / 0.8)
    longer = model_with_codes(convnet)[0]
    write_edits(longer, receipt.edits, old=False)
    assert remaining_accuracy(longer, inputs, targets, 0) < accuracy
    assert bool((log_odds(model(codes.inputs), codes.labels)[codes.labels == 0] < 0).all())


@pytest.mark.parametrize("rule", ["natural", "paper"])
def test_a_floor_out_of_reach(rule: Any) -> None:
    model, codes = model_with_codes()
    before = copied_tensors(model)
    wrong = (codes.labels + 1) % CLASSES
    with (
        edits_values_only(model),
        pytest.raises(
            ForgettingError,
            match=r"no step that forgets the codes keeps an accuracy of 0\.900 on the remaining classes of `floor`; "
            r"the best was 0\.\d{3}, and the model is unchanged",
        ),
    ):
        one_shot(model, codes, 1, rule=rule, rho=RHO, floor=(codes.inputs, wrong, 0.9))
    assert_holds(model, before)
