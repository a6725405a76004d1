"""Which codes are used where a model does not recognise all of them, and what is said of forgotten classes."""

import copy
import re

import pytest
import torch
from asserts import assert_same_bits
from class_forgetting.kept_fisher_cases import keep
from class_forgetting.one_shot_cases import RHO
from known_codes import copied_tensors, model_with_codes, refused
from torch import Tensor, nn

from fastforget import MnemonicCodes, UnrecognisedCodesError, one_shot
from fastforget.class_forgetting.live_codes import prepare_codes
from fastforget.class_forgetting.recognition import examine_codes

FORGOTTEN = (
    r"^`mnemonic_codes` must be known to the model, but class {0} seems to be forgotten already: it assigns none of "
    r"the {1} codes to it, and recognises 100% of those of other classes\. If so, nothing is left to do; name it in "
    r"`forgotten` when others are to be forgotten\. If the model was never shown these codes, train or fine-tune it "
)


def with_wrong(*wrong: tuple[int, int]) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a model, its codes [4, 4, 6], and the same with some (class, code) that belong to the class before."""
    model, codes = model_with_codes(per_class=4)
    mixed = codes.tensor.clone()
    for cls, code in wrong:
        mixed[cls, code] = codes.tensor[cls - 1, code]
    return model, codes.tensor, mixed


def test_the_recognised_codes_of_the_class_are_used_and_the_receipt_says_how_many() -> None:
    model, _, mixed = with_wrong((2, 1))
    receipt = one_shot(model, mixed, 2, rho=RHO)
    assert (receipt.evidence["forget_codes_used"], receipt.evidence["forget_codes_given"]) == (3, 4)
    assert receipt.evidence["forget_log_odds_before"] > 0
    with torch.no_grad():
        assert not (model(mixed.flatten(0, 1)).argmax(1) == 2).any()


def test_nothing_depends_on_what_the_unrecognised_code_is() -> None:
    edited = []
    for code in (0, 3):
        model, codes, mixed = with_wrong((2, 1))
        mixed[2, 1] = codes[1, code]
        receipt = one_shot(model, mixed, 2, rho=RHO)
        edited.append(copied_tensors(model))
    assert "forget_codes_used" in receipt.evidence
    for name, value in edited[0].items():
        assert_same_bits(edited[1][name], value)


def test_the_batch_holds_the_recognised_ones_of_the_class_and_all_others() -> None:
    model, _, mixed = with_wrong((2, 1), (3, 0))
    live, classes = prepare_codes(model, mixed, (1, 2), (), next(model.parameters()))
    batch = examine_codes(model, live, classes)
    assert batch.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 3 + [3] * 4
    assert batch.class_rows == ((4, 5, 6, 7), (8, 9, 10))
    assert batch.usage() == {"forget_codes_used": 7, "forget_codes_given": 8}
    assert batch.logits is not None
    assert len(batch.logits) == len(batch.log_odds) == len(batch.inputs) == 15  # type: ignore[arg-type]


def test_several_classes_of_which_one_is_known_in_part() -> None:
    model, _, mixed = with_wrong((2, 0), (2, 1))
    receipt = one_shot(model, mixed, [0, 2], rho=RHO)
    assert (receipt.evidence["forget_codes_used"], receipt.evidence["forget_codes_given"]) == (6, 8)
    with torch.no_grad():
        said = model(mixed.flatten(0, 1)).argmax(1).tolist()
    assert not {0, 2} & set(said)


def test_where_all_are_recognised_the_receipt_says_nothing_of_it() -> None:
    model, codes, _ = with_wrong()
    assert "forget_codes_used" not in one_shot(model, codes, 2, rho=RHO).evidence


def test_one_recognised_code_suffices_but_half_of_all_must_be() -> None:
    model, _, mixed = with_wrong((2, 0), (2, 1), (2, 2))
    assert one_shot(model, mixed, 2, rho=RHO).evidence["forget_codes_used"] == 1
    model, _, mixed = with_wrong((2, 0), (2, 1), (2, 2), (3, 0), (3, 1), (3, 2), (1, 0), (1, 1), (1, 2))
    with refused(
        model, UnrecognisedCodesError, r"must be known to the model, but it recognises 44% of them\. Train or"
    ):
        one_shot(model, mixed, 2, rho=RHO)


def test_a_kept_sum_needs_all_of_the_class_and_says_so() -> None:
    model, _, mixed = with_wrong((2, 1), (3, 0))
    codes = MnemonicCodes.from_tensors(mixed)
    text = r"with `fisher`, a sum over all codes, but it recognises 3 of 4 of class 2\. Leave `fisher` out"
    for update in (False, True):
        with refused(model, UnrecognisedCodesError, text):
            one_shot(model, codes, 2, rho=RHO, fisher=keep(model, codes), update=update)
    one_shot(copy.deepcopy(model), codes, 2, rho=RHO)  # as it says
    one_shot(model, codes, 1, rho=RHO, fisher=keep(model, codes), update=True)  # of the others, all are in the sum


# Classes that were forgotten before


@pytest.mark.parametrize("first", [{}, {"output_row": False}, {"rule": "paper", "output_row": True}])
def test_forgetting_a_class_twice_says_that_it_is_forgotten(first: dict[str, object]) -> None:
    model, codes = model_with_codes()
    one_shot(model, codes, 2, **{"rho": RHO, **first})  # type: ignore[arg-type]
    for classes in (2, [0, 2]):
        with refused(model, UnrecognisedCodesError, FORGOTTEN.format(2, 8)):
            one_shot(model, codes, classes, rho=RHO)
    one_shot(model, codes, 0, rho=RHO, forgotten=2)  # as it says
    if first.get("output_row", True):  # another edit may bring back a class whose own output row stayed
        text = r"but classes 0, 2 seem to be forgotten already: it assigns none of the 8 codes to them"
        with refused(model, UnrecognisedCodesError, text):
            one_shot(model, codes, [0, 2], rho=RHO)
    with refused(model, UnrecognisedCodesError, FORGOTTEN.format(0, 6)):
        one_shot(model, codes, 0, rho=RHO, forgotten=2)


def test_a_kept_sum_of_a_model_that_forgot_the_class() -> None:
    model, codes = model_with_codes()
    kept = keep(model, codes)
    one_shot(model, codes, 2, rho=RHO, fisher=kept, update=True)
    with refused(model, ValueError, r"all 8 codes, .* or name the classes forgotten earlier \(forgotten=\)$"):
        one_shot(model, codes, 2, rho=RHO, fisher=kept)
    with refused(model, UnrecognisedCodesError, FORGOTTEN.format(2, 8)):
        one_shot(model, codes, 2, rho=RHO, fisher=keep(model, codes))


def test_a_class_that_other_codes_are_assigned_to_is_not_called_forgotten() -> None:
    model, codes = model_with_codes(per_class=1)
    swapped = codes.tensor.clone()
    swapped[[1, 2]] = swapped[[2, 1]]
    text = re.escape("but it recognises 50% of them, none of class 1. Train or fine-tune")
    with refused(model, UnrecognisedCodesError, text):
        one_shot(model, swapped, 1, rho=RHO)


def test_a_model_that_knows_too_few_of_the_others_is_not_called_one_that_forgot() -> None:
    model, codes = model_with_codes(per_class=1)
    same = codes.tensor[[0, 0, 0, 0]]
    with refused(model, UnrecognisedCodesError, r"but it recognises 25% of them, none of class 1\. Train or fine-tune"):
        one_shot(model, same, 1, rho=RHO)
