"""Samples in the place of codes: in which forms, which of them are used, and what is said of the others."""

import copy
import re
from typing import Any

import pytest
import torch
from known_codes import TwoInputs, assert_holds, copied_tensors, model_with_codes, refused
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from fastforget import Receipt, ShallowForgettingWarning, UnrecognisedCodesError, one_shot


def known(per_class: int = 4) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a model of four classes, and samples that it recognises: its codes."""
    model, codes = model_with_codes(per_class=per_class)
    assert isinstance(codes.inputs, Tensor)
    return model, codes.inputs, codes.labels


def forget(model: nn.Module, samples: Any, **settings: Any) -> tuple[dict[str, Tensor], Receipt]:
    """Forget class 1 in a copy."""
    edited = copy.deepcopy(model)
    receipt = one_shot(edited, None, 1, samples=samples, **settings)
    return copied_tensors(edited), receipt


class Mapped(torch.utils.data.Dataset[Any]):
    """Samples as mappings, as data sets of texts have them."""

    def __init__(self, inputs: dict[str, Tensor], labels: Tensor) -> None:
        self._inputs, self._labels = inputs, labels

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {**{name: leaf[row] for name, leaf in self._inputs.items()}, "label": self._labels[row]}


def test_every_form_gives_the_same_bits() -> None:
    model, x, y = known()
    expected, receipt = forget(model, (x, y))
    assert receipt.claims == ("disconnected", "dispersed")
    for form in (
        DataLoader(TensorDataset(x, y), 5),
        TensorDataset(x, y),
        [(x[:7], y[:7]), (x[7:], y[7:])],
        iter([(x[:7], y[:7]), (x[7:], y[7:])]),
    ):
        assert_holds(_with(model, forget(model, form)[0]), expected)


def test_mappings_with_their_labels() -> None:
    model, codes = model_with_codes(TwoInputs, per_class=4, named=True)
    inputs, y = codes.inputs, codes.labels
    assert isinstance(inputs, dict)
    expected, receipt = forget(model, (inputs, y))
    assert receipt.settings["level"] == "features"
    for form in ({**inputs, "labels": y}, Mapped(inputs, y), DataLoader(Mapped(inputs, y), 5)):
        assert_holds(_with(model, forget(model, form)[0]), expected)


def _with(model: nn.Module, tensors: dict[str, Tensor]) -> nn.Module:
    found = copy.deepcopy(model)
    found.load_state_dict(tensors)
    return found


@pytest.mark.parametrize(
    ("samples", "error", "text"),
    [
        ((torch.randn(4, 6), "0123"), TypeError, r"^targets of `samples` must be torch\.int64 \[N\], got str$"),
        ([torch.randn(4, 6)], TypeError, r"^`samples` must hold batches \(inputs, targets\) or mappings with `labels`"),
        ({"x": torch.randn(4, 6)}, ValueError, r"^mappings in `samples` must have either `labels` or `label`, got"),
        ([], ValueError, "^`samples` must hold at least one batch, got none$"),
        (
            [(torch.randn(2, 6), torch.tensor([0, 1])), (torch.randn(2, 5), torch.tensor([2, 3]))],
            ValueError,
            "^batches of `samples` must have samples of one shape, in one structure, for instance texts padded to one",
        ),
    ],
)
def test_what_is_no_form_of_samples(samples: Any, error: type[Exception], text: str) -> None:
    model = known()[0]
    with refused(model, error, text):
        one_shot(model, None, 1, samples=samples)


def test_a_class_of_which_no_sample_is_recognised() -> None:
    """Nothing is guessed; each of the ways that the error names can be gone."""
    model, x, y = known()
    wrong = torch.where(y == 1, 0, torch.where(y == 2, 1, y))
    text = (
        "`samples` of class 1 must be known to the model, but it recognises none of 4: it takes 4 for class 2. Check "
        "their targets, or give samples that it recognises. If the class was forgotten already, "
        '`level="features"` takes it out of the features too; `level="output"` does without these samples'
    )
    with refused(model, UnrecognisedCodesError, f"^{re.escape(text)}$"):
        one_shot(model, None, 1, samples=(x, wrong))
    without = forget(model, (x[wrong != 1], wrong[wrong != 1]), level="output")[0]
    assert_holds(_with(model, forget(model, (x, wrong), level="output")[0]), without)
    one_shot(model, None, 1, samples=(x, y), level="output")
    with refused(model, UnrecognisedCodesError, "^`samples` of class 1 must be known to the model"):
        one_shot(model, None, 1, samples=(x, y))
    deeper = one_shot(model, None, 1, samples=(x, y), level="features")
    assert deeper.claims == ("disconnected", "dispersed")
    assert (deeper.evidence["forget_samples_used"], deeper.evidence["forget_samples_recognised"]) == (4, 0)


def test_samples_that_are_not_recognised_are_counted() -> None:
    model, x, y = known()
    some = y.clone()
    some[(y == 2).nonzero()[0]] = 1  # a sample of another class under a wrong name
    evidence = forget(model, (x, some))[1].evidence
    assert (evidence["forget_samples_used"], evidence["forget_samples_recognised"]) == (5, 4)
    assert "forget_samples_used" not in forget(model, (x, y))[1].evidence


def test_samples_without_classes() -> None:
    """The model says what they are: of the class to forget none stands for the others."""
    model, x, y = known()
    assert_holds(_with(model, forget(model, (x, None))[0]), forget(model, (x[y != 1], None))[0])
    deep, receipt = forget(model, (x, None), level="features")
    assert receipt.claims == ("disconnected", "dispersed")
    assert_holds(_with(model, deep), forget(model, (x, y), level="features")[0])
    text = (
        "^`samples` must hold some of remaining classes, but the model takes all of them for class 1: give inputs of "
        "other classes$"
    )
    with refused(model, ValueError, text):
        one_shot(model, None, 1, samples=(x[y == 1], None))
    with refused(model, ValueError, '^`level="features"` needs `samples='):
        one_shot(model, None, 1, samples=(x[y != 1], None), level="features")


def test_remaining_classes_that_nothing_holds_are_named() -> None:
    model, x, y = known()
    text = r"^`samples` hold none of class 3: nothing holds these classes while features are dispersed\. Give some"
    with pytest.warns(ShallowForgettingWarning, match=text) as said:
        one_shot(copy.deepcopy(model), None, 1, samples=(x[y != 3], y[y != 3]))
    assert len(said) == 1
    with refused(model, ValueError, "^`samples` must hold samples of at least two remaining classes, got 1$"):
        one_shot(model, None, 1, samples=(x[y < 2], y[y < 2]))
    assert forget(model, (x[y != 3], y[y != 3]), forgotten=3)[1].claims == ("disconnected", "dispersed")


def test_one_sample_of_each_class() -> None:
    model, x, y = known(per_class=1)
    assert forget(model, (x, y))[1].claims[0] == "disconnected"


def test_what_would_go_further() -> None:
    model, x, y = known()
    advice = forget(model, (x, None))[1].advice
    for word in ("`samples=(inputs, targets)` with some 16 of each class", "`learn_to_unlearn` ", "`inscribe` "):
        assert word in advice
    assert forget(model, (x, y))[1].advice == ""
    found, codes = model_with_codes()
    assert one_shot(found, codes, 1).advice == (
        "`samples=(inputs, targets)` with some 16 of each class takes the class out of the features too"
    )
