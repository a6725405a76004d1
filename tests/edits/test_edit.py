"""Edits: parts that fit together, and writes that check everything first."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from edits.edited_models import edited
from known_codes import refused
from torch import nn

from fastforget.edits.edit import Edit, write_edits


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda m: m.__delattr__("2"), r"`model` must have `2\.weight` of this receipt"),
        (
            lambda m: m.add_module("2", nn.Linear(64, 5)),
            r"`2\.weight` must be torch\.float32 of shape \(4, 64\), got t",
        ),
        (
            lambda m: m.get_submodule("2").double(),
            r"`2\.weight` must be torch\.float32 .* got torch\.float64",
        ),
    ],
)
def test_write_checks_everything_first(change: Callable[[nn.Module], Any], text: str, old: bool) -> None:
    """Even where the fingerprint would let it pass."""
    original, _, receipt = edited("paper")
    change(original)
    with refused(original, ValueError, text):
        write_edits(original, receipt.edits, old=old)


def test_write_without_the_old_values() -> None:
    _, model, receipt = edited(undo=False)
    with refused(model, ValueError, r"the receipt must hold the old values of `0\.weight`"):
        write_edits(model, receipt.edits, old=True)


FOUR = torch.arange(4.0)


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ((torch.tensor([0, 1, 2, 6]), FOUR, FOUR), r"an edit's indices must lie in \[0, 6\)"),
        ((torch.tensor([-1, 1, 2, 3]), FOUR, FOUR), r"an edit's indices must lie in \[0, 6\)"),
        ((torch.tensor([0, 2, 1, 3]), FOUR, FOUR), "an edit's indices must increase"),
        ((torch.tensor([0, 1, 1, 3]), FOUR, FOUR), "an edit's indices must increase"),
        ((torch.tensor([0, 1, 2]), FOUR, FOUR), "an edit must hold one int32 or int64 index per changed element"),
        ((torch.tensor([0, 1, 2, 3]).short(), FOUR, FOUR), "one int32 or int64 index per changed element"),
        ((torch.tensor([0.0, 1, 2, 3]), FOUR, FOUR), "one int32 or int64 index per changed element"),
        ((torch.tensor([[0, 1, 2, 3]]), FOUR, FOUR), "one int32 or int64 index per changed element"),
        ((torch.tensor([0, 1, 2, 3]), FOUR[:3], FOUR), "as many old values as new ones, of the same dtype"),
        ((torch.tensor([0, 1, 2, 3]), FOUR.double(), FOUR), "as many old values as new ones, of the same dtype"),
        ((torch.tensor([0, 1, 2, 3]), FOUR, FOUR[None]), r"one new value per changed element, got shape \(1, 4\)"),
        ((None, FOUR, FOUR), r"an edit must hold one new value per changed element, got shape \(4,\)"),
    ],
)
def test_edit_checks_that_its_parts_fit(parts: tuple[Any, Any, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Edit((2, 3), *parts)


def test_good_edits() -> None:
    six, none = torch.arange(6.0), torch.zeros(0)
    Edit((2, 3), None, six, six)
    Edit((2, 3), None, None, six)
    Edit((2, 3), torch.tensor([5], dtype=torch.int32), None, six[:1])
    Edit((2, 3), none.long(), none, none)
    Edit((), None, six[:1], six[:1])
