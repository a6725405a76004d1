"""Warnings where an edit fell short of its goal, from the figures in its evidence."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from fastforget.edits.claims import is_shallow
from fastforget.errors import ShallowForgettingWarning

__all__ = ["warn_of_shortfall"]


def warn_of_shortfall(evidence: Mapping[str, float], reason: str, *, wanted: bool) -> None:
    """Warn the caller's caller where an edit fell short of its goal.

    Args:
        evidence: Of the edit.
        reason: Why the class was not disconnected, if it was not.
        wanted: Whether the output layer was to change.
    """
    if wanted and not evidence["disconnected"]:
        hidden = evidence.get("silenced_by", 0.0) > 0
        how = "its output bias hides it" if hidden else "nothing but the step in the body hides it"
        warnings.warn(
            f"the class is not disconnected, because {reason}; {how}",
            ShallowForgettingWarning,
            stacklevel=3,
        )
    elif wanted and is_shallow(evidence):
        warnings.warn(
            f"the class is {evidence['output_depth']:.1f} nats beyond the decision boundary, short of the goal of "
            f"{evidence['output_depth_goal']:.1f}",
            ShallowForgettingWarning,
            stacklevel=3,
        )
    if "dispersed" in evidence and not evidence["dispersed"]:
        warnings.warn(
            f"the class is not dispersed: {evidence['features_left']:.0%} of the way to the features of others is "
            f"left, more than {evidence['features_left_goal']:.0%}",
            ShallowForgettingWarning,
            stacklevel=3,
        )
