"""Several classes are forgotten in one call as they are in turn."""

import copy

import pytest
from asserts import assert_close
from class_forgetting.one_shot_cases import FREE, RHO, accuracies
from known_codes import assert_holds, convnet, copied_tensors, digits, edits_values_only, model_with_codes

from fastforget import one_shot


@pytest.mark.parametrize("classes", [(0, 3), (1, 2, 6), (0, 2, 4, 6, 8)])
def test_several_classes_of_digits(classes: tuple[int, ...]) -> None:
    original, codes, data = digits()
    model = copy.deepcopy(original)
    base = accuracies(original, data, classes)
    with edits_values_only(model):
        receipt = one_shot(model, codes, classes)
    forget, remain = accuracies(model, data, classes)
    assert forget == 0
    assert remain >= base[1] - 0.005
    assert receipt.classes == classes
    receipt.revert(model)
    assert_holds(model, copied_tensors(original))


def test_several_classes_are_taken_in_turn() -> None:
    """The same as single requests, each with its share of the bound, up to rounding."""
    model, codes = model_with_codes(convnet)
    model.double()
    turns = copy.deepcopy(model)
    one_shot(model, codes, [1, 3], rho=RHO, output_row=False, spill=FREE)
    one_shot(turns, codes, 1, rho=RHO, output_row=False, spill=FREE)
    one_shot(turns, codes, 3, rho=RHO, output_row=False, spill=FREE, forgotten=1)
    for name, value in copied_tensors(turns).items():
        assert_close(copied_tensors(model)[name], value, 1e-9, name)


def test_an_edit_of_several_classes_says_what_differs() -> None:
    model, codes = model_with_codes(convnet)
    before = copied_tensors(model)
    receipt = one_shot(model, codes, [0, 1], rho=RHO, output_row=False, spill=FREE)
    differ = sum(int((value != before[name]).sum()) for name, value in copied_tensors(model).items())
    assert receipt.changed == differ > 0
