"""One request follows another: no class comes back, and a kept Fisher is brought up to date."""

import copy
from typing import Literal

import pytest
import torch
from asserts import assert_close
from class_forgetting.one_shot_cases import RHO, accuracies
from known_codes import assert_holds, copied_tensors, digits, model_with_codes, refused
from torch import nn

from fastforget import FisherDiagonal, fingerprint, fisher_diagonal, one_shot


def test_ten_requests_of_digits_but_one() -> None:
    """Nine requests, and no class comes back; the last class is all that is left."""
    original, codes, data = digits()
    model, gone = copy.deepcopy(original), list[int]()
    kept = fisher_diagonal(model, codes.inputs, codes.labels, reduction="sum")
    for cls in (3, 1, 4, 5, 9, 2, 6, 8, 7):
        one_shot(model, codes, cls, forgotten=gone, fisher=kept, update=True)
        gone.append(cls)
        forget, remain = accuracies(model, data, gone)
        assert forget == 0
        assert remain >= accuracies(original, data, gone)[1] - 0.015
    assert (kept.samples, len(kept.losses), kept.weight.item()) == (4, 4, 4)
    assert kept.model == fingerprint(model)


def test_a_request_without_word_of_the_earlier_ones() -> None:
    """Once most classes are gone, their codes are not known, and the text says what to do about it."""
    model, codes = model_with_codes()
    for place, cls in enumerate((0, 1)):
        one_shot(model, codes, cls, rho=RHO, forgotten=range(place))
    before = copied_tensors(model)
    one_shot(model, codes, 2, rho=RHO, forgotten=[0, 1])
    assert not torch.equal(before["2.bias"], copied_tensors(model)["2.bias"])


def test_updated_is_what_was_kept_without_the_forgotten() -> None:
    model, codes = model_with_codes()
    model.double()
    original = copy.deepcopy(model)
    kept = fisher_diagonal(model, codes.to(torch.float64).inputs, codes.labels, reduction="sum")
    rest = codes.labels != 2
    inputs = codes.to(torch.float64).tensor.flatten(0, 1)[rest]
    expected = fisher_diagonal(original, inputs, codes.labels[rest], reduction="sum")
    receipt = one_shot(model, codes, 2, rho=RHO, fisher=kept, update=True)
    for name, value in expected.items():
        assert_close(kept[name], value, 1e-9, name)
    losses = nn.functional.cross_entropy(model(inputs), codes.labels[rest], reduction="none")
    assert_close(kept.losses, losses.detach(), 1e-6)
    assert (kept.model, kept.samples) == (receipt.after, int(rest.sum()))
    assert receipt.evidence["remain_log_odds_lost"] <= 2
    receipt.revert(model)
    with refused(model, ValueError, "^`fisher` must be of the model as it is"):
        one_shot(model, codes, 1, rho=RHO, fisher=kept, forgotten=2)


def test_an_updated_sum_has_no_gradient_of_codes_that_are_gone() -> None:
    model, codes = model_with_codes()
    kept = fisher_diagonal(model, codes.inputs, codes.labels, reduction="sum", with_gradient=True)
    one_shot(model, codes, 2, rho=RHO, fisher=kept, update=True)
    assert kept.gradient is None
    one_shot(model, codes, 1, rho=RHO, fisher=kept, update=True, forgotten=2)


def test_samples_of_classes_forgotten_earlier_do_not_hold_a_floor_down() -> None:
    original, codes, data = digits()
    model = copy.deepcopy(original)
    one_shot(model, codes, 3)
    reached = accuracies(model, data, [3, 5])[1]
    receipt = one_shot(model, codes, 5, forgotten=3, floor=(data.x_test, data.y_test, reached - 0.01))
    assert receipt.evidence["disconnected"] == 1
    assert accuracies(model, data, [3, 5])[1] >= reached - 0.01


def test_receipts_are_reverted_in_order_only() -> None:
    model, codes = model_with_codes()
    before = copied_tensors(model)
    first = one_shot(model, codes, 0, rho=RHO)
    second = one_shot(model, codes, 1, rho=RHO, forgotten=0)
    with refused(model, ValueError, "^`model` must be as this edit left it"):
        first.revert(model)
    second.revert(model)
    first.revert(model)
    assert_holds(model, before)


def test_a_kept_sum_of_all_codes_is_not_one_of_the_rest() -> None:
    model, codes = model_with_codes()
    kept = fisher_diagonal(model, codes.inputs, codes.labels, reduction="sum")
    assert isinstance(kept, FisherDiagonal)
    with refused(model, ValueError, "^`fisher` must be the sum over all 6 codes, each once, got 8 samples"):
        one_shot(model, codes, 1, rho=RHO, fisher=kept, forgotten=3)


@pytest.mark.parametrize("level", ["output", "features"])
def test_samples_of_classes_forgotten_earlier_are_left_out(level: Literal["output", "features"]) -> None:
    """They would pull the row towards what is gone, and be goals of the features."""
    model, codes = model_with_codes()
    other, rest = copy.deepcopy(model), codes.labels != 3
    all_samples = (codes.inputs, codes.labels)
    assert isinstance(codes.inputs, torch.Tensor)
    one_shot(model, None, 1, level=level, samples=all_samples, forgotten=3)
    one_shot(other, None, 1, level=level, samples=(codes.inputs[rest], codes.labels[rest]), forgotten=3)
    assert_holds(model, copied_tensors(other))
