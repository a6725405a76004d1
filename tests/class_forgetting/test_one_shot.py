"""`one_shot` forgets the class, keeps the rest, and says what it did."""

import copy

import pytest
import torch
from class_forgetting.one_shot_cases import FREE, RHO, accuracies
from known_codes import assert_holds, copied_tensors, edits_values_only, model_with_codes
from torch import nn

import fastforget
from fastforget import MnemonicCodes, one_shot
from fastforget.classifier.losses import log_odds
from fastforget.demo.data import Dataset
from fastforget.demo.results import split_accuracy
from fastforget.demo.training import confusion

# What the method is for


@pytest.mark.parametrize("cls", range(10))
def test_forgets_the_class_keeps_the_rest_and_comes_back(
    cls: int, trained: tuple[nn.Module, MnemonicCodes, Dataset]
) -> None:
    model, codes, data = copy.deepcopy(trained[0]), *trained[1:]
    before = copied_tensors(model)
    forget, remain = accuracies(model, data, [cls])
    with edits_values_only(model):
        receipt = one_shot(model, codes, cls)
    forget_after, remain_after = accuracies(model, data, [cls])
    assert forget > 0.9
    assert forget_after == 0
    assert remain_after >= remain - 0.005
    assert receipt.classes == (cls,)
    assert (receipt.evidence["disconnected"], receipt.evidence["silenced_by"]) == (1, 0)
    assert receipt.edits["8.weight"].indices is not None
    width = trained[0].get_parameter("8.weight").shape[1]
    assert set(range(cls * width, (cls + 1) * width)) <= set(receipt.edits["8.weight"].indices.tolist())
    widths = [round(times * 0.003 * 77754) for times in (1, 3)]
    # With the output row, some of which the step moves anyway, and the whole output bias.
    assert any(0 <= receipt.changed - few <= width + 10 for few in widths)
    receipt.revert(model)
    assert_holds(model, before)
    assert (forget, remain) == accuracies(model, data, [cls])


def test_two_classes_at_once(trained: tuple[nn.Module, MnemonicCodes, Dataset]) -> None:
    model, codes, data = copy.deepcopy(trained[0]), *trained[1:]
    _, remain = accuracies(model, data, [2, 7])
    one_shot(model, codes, [2, 7], rho=0.1)
    forget_after, remain_after = accuracies(model, data, [2, 7])
    assert forget_after <= 0.05
    assert remain_after >= remain - 0.03


def test_a_model_very_sure_of_its_codes_is_not_damaged(trained: tuple[nn.Module, MnemonicCodes, Dataset]) -> None:
    """Log-odds of 50: in float32 no gradient would reach the own logit, and every square would vanish."""
    model, codes, data = copy.deepcopy(trained[0]), *trained[1:]
    head = model.get_submodule("8")
    with torch.no_grad():
        head.weight.mul_(6)
        head.bias.mul_(6)
    forget, remain = accuracies(model, data, [3])
    receipt = one_shot(model, codes, 3, depth=6 * 6)
    forget_after, remain_after = accuracies(model, data, [3])
    assert receipt.evidence["forget_log_odds_before"] > 40
    assert forget_after < forget - 0.5
    assert remain_after >= remain - 0.015


def test_the_codes_say_so(trained: tuple[nn.Module, MnemonicCodes, Dataset]) -> None:
    model, codes = copy.deepcopy(trained[0]), trained[1]
    evidence = one_shot(model, codes, 1).evidence
    assert evidence["forget_log_odds_before"] > 3
    assert evidence["forget_log_odds_after"] == pytest.approx(-6, abs=0.11)
    assert evidence["remain_log_odds_before"] > 3
    assert evidence["remain_log_odds_after"] > 3
    with torch.no_grad():
        odds = log_odds(model(codes.inputs), codes.labels)
    assert odds[codes.labels != 1].mean().item() == pytest.approx(evidence["remain_log_odds_after"], abs=1e-3)
    assert evidence["remain_log_odds_lost"] <= 2


# The receipt it returns


def test_receipt_says_what_was_done() -> None:
    model, codes = model_with_codes()
    before = fastforget.fingerprint(model)
    receipt = one_shot(model, codes, 1, rho=RHO, output_row=False, spill=FREE)
    assert (receipt.rule, receipt.classes, receipt.total) == ("natural", (1,), 708)
    assert receipt.changed == 71
    assert receipt.share == pytest.approx(71 / 708)
    assert (receipt.before, receipt.after) == (before, fastforget.fingerprint(model))
    assert set(receipt.seconds) == {"check", "fingerprint", "fisher", "step", "output", "floor", "write", "total"}
    phases = sum(value for key, value in receipt.seconds.items() if key != "total")
    assert 0 < phases <= receipt.seconds["total"]
    assert receipt.created.endswith("+00:00")
    assert receipt.alpha > 0
    assert "changed=71 of 708" in repr(receipt)


def test_split_accuracy_agrees(trained: tuple[nn.Module, MnemonicCodes, Dataset]) -> None:
    model, _, data = trained
    matrix = confusion(model, data.x_test, data.y_test, 10).to(data.y_test.device)
    assert split_accuracy(matrix, 3) == pytest.approx(accuracies(model, data, [3]))
