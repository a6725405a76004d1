"""Warnings where an edit fell short of its goal, from the figures in its evidence."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping

from fastforget.edits.claims import is_shallow
from fastforget.errors import ShallowForgettingWarning

__all__ = ["warn_of_shortfall"]


def warn_of_shortfall(evidence: Mapping[str, float], reason: str, *, wanted: bool, advice: str = "") -> None:
    """Warn the caller's caller where an edit fell short of its goal.

    Args:
        evidence: Of the edit.
        reason: Why the class was not disconnected, if it was not.
        wanted: Whether the output layer was to change.
        advice: What would go further; the last warning says it.
    """
    texts = list(_shortfalls(evidence, reason, wanted=wanted))
    if texts and advice:
        texts[-1] += f". To go further: {advice}"
    for text in texts:
        warnings.warn(text, ShallowForgettingWarning, stacklevel=3)


def _shortfalls(evidence: Mapping[str, float], reason: str, *, wanted: bool) -> Iterator[str]:
    if wanted and not evidence["disconnected"]:
        hidden = evidence.get("silenced_by", 0.0) > 0
        how = "its output bias hides it" if hidden else "nothing but the step in the body hides it"
        yield f"the class is not disconnected, because {reason}; {how}"
    elif wanted and is_shallow(evidence):
        yield (
            f"the class is {evidence['output_depth']:.1f} nats beyond the decision boundary, short of the goal of "
            f"{evidence['output_depth_goal']:.1f}"
        )
    if "dispersed" in evidence and not evidence["dispersed"]:
        yield (
            f"the class is not dispersed: {evidence['features_left']:.0%} of the way to the features of others is "
            f"left, more than {evidence['features_left_goal']:.0%}"
        )
