"""Errors of this library that no built-in type says well enough."""

from __future__ import annotations

__all__ = ["AccuracyLossWarning", "ForgettingError", "ShallowForgettingWarning", "UnrecognisedCodesError"]


class ForgettingError(RuntimeError):
    """No edit fulfils what was asked for; the model is unchanged."""


class UnrecognisedCodesError(ValueError):
    """The model does not know the codes, or the samples of a class, that it was given; the model is unchanged."""


class AccuracyLossWarning(UserWarning):
    """A model was changed, and that cost more accuracy than it should; the text has the number."""


class ShallowForgettingWarning(UserWarning):
    """An edit was made, but fell short of its goal; the receipt's evidence has the figures."""
