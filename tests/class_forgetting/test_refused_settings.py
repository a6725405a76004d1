"""`one_shot` refuses classes and settings out of range, and not a bit of the model changes."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from known_codes import model_with_codes, refused

from fastforget import one_shot

# The class


@pytest.mark.parametrize(
    ("cls", "error", "text"),
    [
        (4, ValueError, r"^`cls` must lie in \[0, 4\), got \[4\]$"),
        (-1, ValueError, r"^`cls` must lie in \[0, 4\), got \[-1\]$"),
        ([0, 9], ValueError, r"^`cls` must lie in \[0, 4\), got \[0, 9\]$"),
        ([1, 1], ValueError, r"^`cls` must name each class once, got \[1, 1\]$"),
        ([0, 1, 2, 3], ValueError, "^`cls` must leave at least one of 4 classes, got all of them$"),
        ([], ValueError, "^`cls` must name at least one class, got none$"),
        ((), ValueError, "^`cls` must name at least one class, got none$"),
        (np.array([], dtype=np.int64), ValueError, "^`cls` must name at least one class, got none$"),
        (True, TypeError, "^`cls` must be an int or a sequence of ints, got True$"),
        ([0, False], TypeError, r"^`cls` must be an int or a sequence of ints, got \[0, False\]$"),
        (np.bool_(True), TypeError, "^`cls` must be an int or a sequence of ints, got "),
        (torch.tensor(True), TypeError, "^`cls` must be an int or a sequence of ints, got "),
        (1.0, TypeError, r"^`cls` must be an int or a sequence of ints, got 1\.0$"),
        ([0, 1.0], TypeError, r"^`cls` must be an int or a sequence of ints, got \[0, 1\.0\]$"),
        (np.float32(1), TypeError, "^`cls` must be an int or a sequence of ints, got "),
        (torch.tensor(1.0), TypeError, "^`cls` must be an int or a sequence of ints, got "),
        (torch.tensor([[1, 2]]), TypeError, "^`cls` must be an int or a sequence of ints, got "),
        ("1", TypeError, "^`cls` must be an int or a sequence of ints, got '1'$"),
        (None, TypeError, "^`cls` must be an int or a sequence of ints, got None$"),
    ],
    ids=repr,
)
def test_cls(cls: Any, error: type[Exception], text: str) -> None:
    model, codes = model_with_codes()
    with refused(model, error, text):
        one_shot(model, codes, cls)


# The settings


@pytest.mark.parametrize("name", ["rho", "depth", "lambda1", "lambda2"])
@pytest.mark.parametrize("value", [0, -0.5, math.nan, math.inf, -math.inf])
def test_settings_out_of_range(name: str, value: float) -> None:
    model, codes = model_with_codes()
    interval = r"\(0, 1\]" if name == "rho" else r"\(0, inf\)"
    with refused(model, ValueError, rf"^`{name}` must lie in {interval}, got {value}$"):
        one_shot(model, codes, 1, **{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["rho", "lambda1"])
@pytest.mark.parametrize("value", [True, "0.1", [0.1]])
def test_settings_of_the_wrong_type(name: str, value: Any) -> None:
    model, codes = model_with_codes()
    with refused(model, TypeError, rf"^`{name}` must be a number, got {type(value).__name__}$"):
        one_shot(model, codes, 1, **{name: value})


def test_rho_above_one() -> None:
    model, codes = model_with_codes()
    with refused(model, ValueError, r"^`rho` must lie in \(0, 1\], got 1\.01$"):
        one_shot(model, codes, 1, rho=1.01)


@pytest.mark.parametrize("rule", ["Natural", "", None])
def test_unknown_rule(rule: Any) -> None:
    model, codes = model_with_codes()
    with refused(model, ValueError, rf'^`rule` must be "natural" or "paper", got {rule!r}$'):
        one_shot(model, codes, 1, rule=rule)


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["0.weight", "head.weight"], "`parameters` must name parameters of the model, got 'head.weight'"),
        ([], "must "),
    ],
)
def test_parameters(names: list[str], text: str) -> None:
    model, codes = model_with_codes()
    with refused(model, ValueError, text):
        one_shot(model, codes, 1, parameters=names)


INPUTS, TARGETS = torch.zeros(3, 6), torch.tensor([0, 2, 3])


@pytest.mark.parametrize(
    ("floor", "error", "text"),
    [
        ((INPUTS, TARGETS), TypeError, r"^`floor` must be \(inputs, targets, accuracy\), got tuple$"),
        (0.9, TypeError, r"^`floor` must be \(inputs, targets, accuracy\), got float$"),
        ((INPUTS, TARGETS, 1.5), ValueError, r"^the accuracy of `floor` must lie in \[0, 1\], got 1\.5$"),
        ((INPUTS, TARGETS, math.nan), ValueError, r"^the accuracy of `floor` must lie in \[0, 1\], got nan$"),
        ((INPUTS, TARGETS, "90%"), TypeError, "^the accuracy of `floor` must be a number, got str$"),
        ((INPUTS, TARGETS, True), TypeError, "^the accuracy of `floor` must be a number, got bool$"),
        (
            (INPUTS, [0.5, 2, 3], 0.9),
            TypeError,
            r"^the targets of `floor` must .*, got a list of 3, of float and int$",
        ),
        ((INPUTS, TARGETS[:, None], 0.9), TypeError, r"^the targets of `floor` must be an integer tensor \[N\], got "),
        ((INPUTS, TARGETS.float(), 0.9), TypeError, r"^the targets of `floor` must be an integer tensor \[N\], got "),
        ((INPUTS, TARGETS[:2], 0.9), ValueError, r"^`targets` must have the batch size"),
        ((INPUTS[:0], TARGETS[:0], 0.9), ValueError, "^`inputs` must not be empty"),
        ((INPUTS * math.nan, TARGETS, 0.9), ValueError, "^`inputs` must be finite, got NaN"),
        ((INPUTS[:, :5], TARGETS, 0.9), ValueError, r"^`floor` must be what .* samples of shape \(5,\)"),
        ((INPUTS, torch.ones_like(TARGETS), 0.9), ValueError, "^`floor` must hold samples of remaining classes"),
    ],
)
def test_floor(floor: Any, error: type[Exception], text: str) -> None:
    model, codes = model_with_codes()
    with refused(model, error, text):
        one_shot(model, codes, 1, floor=floor)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"forgotten": [1]}, ValueError, r"^`cls` must not name classes that were forgotten earlier, got \[1\]$"),
        ({"forgotten": [0, 2, 3]}, ValueError, "^`cls` must leave at least one of 1 classes, got all of them$"),
        ({"forgotten": [4]}, ValueError, r"^`forgotten` must lie in \[0, 4\), got \[4\]$"),
        ({"forgotten": [2, 2]}, ValueError, "^`forgotten` must name each class once"),
        ({"forgotten": "2"}, TypeError, "^`forgotten` must be an int or a sequence of ints"),
        ({"spill": 0}, ValueError, r"^`spill` must lie in \(0, inf\), got 0$"),
        ({"spill": "2"}, TypeError, "^`spill` must be a number, got str$"),
        ({"output_row": 1}, TypeError, "^`output_row` must be a bool or None, got int$"),
        ({"update": 1}, TypeError, "^`update` must be a bool, got int$"),
        ({"update": True}, ValueError, "^`update` must come with `fisher` and without `parameters`"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    model, codes = model_with_codes()
    with refused(model, error, text):
        one_shot(model, codes, 1, **arguments)
