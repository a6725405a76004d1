"""Receipts whose checksum fits, and whose values do not; and files that change after they were loaded."""

import copy
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from known_codes import assert_holds, copied_tensors, model_with_codes, refused
from torch import Tensor

from fastforget import Receipt, fingerprint, one_shot
from fastforget.edits.edit import write_edits


def with_values(receipt: Receipt, **values: Tensor) -> Receipt:
    """The receipt with other old or new values of the first weight, and a checksum that fits."""
    edits = dict(receipt.edits)
    edits["0.weight"] = replace(edits["0.weight"], **values)
    return replace(receipt, edits=edits)


def test_values_that_do_not_make_the_model_that_a_receipt_names_are_put_back(tmp_path: Path) -> None:
    model, codes = model_with_codes()
    original = copy.deepcopy(model)
    receipt = one_shot(model, codes, 1)
    old = receipt.edits["0.weight"].old
    assert old is not None
    path = tmp_path / "receipt"
    with_values(receipt, old=old + 1).save(path)
    with refused(model, ValueError, r"^this receipt must hold the values of the model \w+, but they make \w+: it was"):
        Receipt.load(path).revert(model)
    with_values(receipt, new=receipt.edits["0.weight"].new + 1).save(path)
    with refused(
        original, ValueError, r"^this receipt must hold the values of the model \w+, but they make \w+: it was"
    ):
        Receipt.load(path).apply(original)
    receipt.revert(model)
    assert_holds(model, copied_tensors(original))


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_values_that_are_not_finite_are_not_applied(wrong: float) -> None:
    """Even if all fingerprints fit."""
    model, codes = model_with_codes()
    original = copy.deepcopy(model)
    receipt = one_shot(model, codes, 1)
    new = torch.full_like(receipt.edits["0.weight"].new, wrong)
    spoilt = with_values(receipt, new=new)
    write_edits(model := copy.deepcopy(original), spoilt.edits, old=False)
    spoilt = replace(spoilt, after=fingerprint(model))
    with refused(original, ValueError, r"^this receipt must hold finite values, got NaN or infinity for `0\.weight`$"):
        spoilt.apply(original)


def test_a_loaded_receipt_is_no_view_of_its_file(tmp_path: Path) -> None:
    model, codes = model_with_codes()
    original = copy.deepcopy(model)
    one_shot(model, codes, 1).save(tmp_path / "receipt")
    loaded = Receipt.load(tmp_path / "receipt")
    with (tmp_path / "receipt").open("r+b") as file:
        file.truncate(10)  # to read a page that is gone would end the process
    loaded.revert(model)
    assert_holds(model, copied_tensors(original))
