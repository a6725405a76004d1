"""Checks of arguments refuse wrong types and values, in one wording."""

import math

import pytest

from fastforget.classifier.arguments import (
    FRACTION,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    Interval,
    check_choice,
    check_integer,
    check_number,
)


@pytest.mark.parametrize(
    ("interval", "text", "inside", "outside"),
    [
        (POSITIVE, "(0, inf)", (5e-324, 1e308), (0, -1, math.inf, math.nan)),
        (NOT_NEGATIVE, "[0, inf)", (0, 7), (-5e-324, math.inf, math.nan)),
        (SHARE, "(0, 1]", (1e-9, 1), (0, 1.0000001, math.nan)),
        (FRACTION, "[0, 1]", (0, 1), (-1e-9, 1.0000001, math.nan)),
    ],
)
def test_intervals(interval: Interval, text: str, inside: tuple[float, ...], outside: tuple[float, ...]) -> None:
    assert str(interval) == text
    for value in inside:
        check_number("rho", value, interval)
    for value in outside:
        with pytest.raises(ValueError, match="`rho` must lie in ") as caught:
            check_number("rho", value, interval)
        assert str(caught.value) == f"`rho` must lie in {text}, got {value}"


@pytest.mark.parametrize("value", [True, "1", None, 1j])
def test_what_is_no_number(value: object) -> None:
    with pytest.raises(TypeError) as caught:
        check_number("the accuracy of `floor`", value)
    assert str(caught.value) == f"the accuracy of `floor` must be a number, got {type(value).__name__}"


def test_integers() -> None:
    check_integer("epochs", 1)
    check_integer("steps", 0, least=0)
    with pytest.raises(ValueError, match=r"^`epochs` must be at least 1, got 0$"):
        check_integer("epochs", 0)
    for value in (True, 1.0, "1"):
        with pytest.raises(TypeError) as caught:
            check_integer("epochs", value)
        assert str(caught.value) == f"`epochs` must be an integer, got {type(value).__name__}"


def test_choices() -> None:
    check_choice("rule", "paper", ("natural", "paper"))
    with pytest.raises(ValueError, match=r"^`rule` must be one of 'natural', 'paper', got 'other'$"):
        check_choice("rule", "other", ("natural", "paper"))
