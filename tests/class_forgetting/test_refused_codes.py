"""`one_shot` refuses codes that it cannot use, and not a bit of the model changes."""

import math
from typing import Any

import pytest
import torch
from known_codes import CLASSES, TwoInputs, digits, model_with_codes, refused

from fastforget import MnemonicCodes, UnrecognisedCodesError, one_shot
from fastforget.demo.models import small_resnet
from fastforget.demo.training import train

# Codes that the model does not know


def test_a_model_trained_without_codes() -> None:
    _, codes, data = digits()
    model = small_resnet(num_classes=10, seed=1)
    train(model, data.x_train, data.y_train, codes, epochs=2, lr=0.1, batch_size=64, seed=0, rate=0.0, progress=False)
    text = (
        r"^`mnemonic_codes` must be known to the model, but it recognises \d+% of them.*\. Train or fine-tune it with "
        r"the codes \(codes\.embed\), pass a few real images per class as codes \(MnemonicCodes\.from_tensors\), or "
        r"name the classes forgotten earlier \(forgotten=\)$"
    )
    with refused(model, UnrecognisedCodesError, text):
        one_shot(model, codes, 3)
    images = torch.stack([data.x_train[data.y_train == cls][:2] for cls in range(10)])
    assert one_shot(model, images, 3, rho=0.1).changed > 0  # the second remedy


def test_other_codes_than_those_of_training() -> None:
    model, _, _ = digits()
    with refused(model, UnrecognisedCodesError, "must be known to the model, but it recognises .*%"):
        one_shot(model, MnemonicCodes.generate(10, (1, 8, 8), per_class=4, seed=99), 3)


def test_the_class_itself_must_be_known() -> None:
    model, codes = model_with_codes(per_class=1)
    swapped = codes.tensor.clone()
    swapped[1] = swapped[0]
    text = "assigns none of the 4 codes to it, and recognises 100% of those of other classes.* never shown these codes"
    with refused(model, UnrecognisedCodesError, text):
        one_shot(model, swapped, 1)
    with refused(model, UnrecognisedCodesError, text):
        one_shot(model, swapped, [1, 2], rule="paper")


# The codes


@pytest.mark.parametrize(
    ("codes", "error", "text"),
    [
        (
            MnemonicCodes.generate(CLASSES, (7,)),
            ValueError,
            r"`mnemonic_codes` must be what .* samples of shape \(7,\)",
        ),
        (
            MnemonicCodes.generate(CLASSES, (2, 6), per_class=1),
            ValueError,
            r"one class per output .* shape \(4, 2, 4\)",
        ),
        (MnemonicCodes.generate(CLASSES, [(6,), (6,)]), ValueError, r"samples of shape \(6,\), \(6,\): .*arguments"),
        (MnemonicCodes.generate(CLASSES, {"x": (6,)}), ValueError, r"samples of shape \(6,\): .*'x'"),
        (
            MnemonicCodes.generate(5, (6,)),
            ValueError,
            r"^`mnemonic_codes` must have one class per output .*, got 5 classes x 4 codes, and .* shape \(20, 4\)$",
        ),
        (MnemonicCodes.generate(3, (6,)), ValueError, "one class per output of the model, got 3 classes x 4 codes"),
        (torch.zeros(CLASSES, 7), ValueError, r"`mnemonic_codes` must be what .* samples of shape \(7,\)"),
        (torch.zeros(CLASSES, 2, 7), ValueError, r"`mnemonic_codes` must be what .* samples of shape \(7,\)"),
        (torch.zeros(CLASSES, 2, 2, 7), ValueError, r"`mnemonic_codes` must be what .* samples of shape \(2, 7\)"),
        (torch.zeros(5, 6), ValueError, "one class per output of the model, got 5 classes x 1 codes"),
        (torch.zeros(()), ValueError, r"must be \[C, \*shape\] or \[C, M, \*shape\], got shape \(\)"),
        (torch.zeros(6), ValueError, r"must be \[C, \*shape\] or \[C, M, \*shape\], got shape \(6,\)"),
        (torch.zeros(0, 6), ValueError, r"must be \[C, \*shape\] or \[C, M, \*shape\], got shape \(0, 6\)"),
        (torch.zeros(CLASSES, 6, device="meta"), ValueError, "must hold values, got a tensor on the meta device"),
        (torch.zeros(CLASSES, 6, dtype=torch.complex64), TypeError, "codes must be real and not quantised"),
        (torch.zeros(CLASSES, 6, dtype=torch.int64), ValueError, "`mnemonic_codes` must be what .*"),
        ([[0.0] * 6] * CLASSES, TypeError, "`mnemonic_codes` must be MnemonicCodes or a tensor, got list"),
        (None, ValueError, "^`mnemonic_codes` must be given without `samples`, got None$"),
    ],
    ids=lambda value: f"{type(value).__name__}" if not isinstance(value, str) else "",
)
def test_codes(codes: Any, error: type[Exception], text: str) -> None:
    model, _ = model_with_codes()
    with refused(model, error, text):
        one_shot(model, codes, 1)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_codes_that_are_not_finite(bad: float) -> None:
    model, codes = model_with_codes()
    tensor = codes.tensor.clone()
    tensor[3, 1, 5] = bad
    with refused(model, ValueError, "codes must be finite, got NaN or infinity"):
        one_shot(model, tensor, 1)


def test_codes_beyond_the_range_of_the_models_type() -> None:
    model, codes = model_with_codes()
    model.half()
    with refused(model, ValueError, "codes must be finite, got NaN or infinity"):
        one_shot(model, codes.tensor * 1e6, 1)


def test_one_tensor_for_a_model_with_two_inputs() -> None:
    model, _ = model_with_codes(TwoInputs)
    with refused(model, ValueError, r"`mnemonic_codes` must be what the model's forward takes, .*missing 1 required"):
        one_shot(model, torch.zeros(CLASSES, 1, 5), 1)
