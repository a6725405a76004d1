"""Errors of this library that no built-in type says well enough."""

from __future__ import annotations

__all__ = ["ForgettingError", "ShallowForgettingWarning", "UnrecognisedCodesError"]


class ForgettingError(RuntimeError):
    """No edit fulfils what was asked for; the model is unchanged."""


class UnrecognisedCodesError(ValueError):
    """The model does not know the codes it was given; the model is unchanged."""


class ShallowForgettingWarning(UserWarning):
    """An edit was made, but fell short of its goal; the receipt's evidence has the figures."""
