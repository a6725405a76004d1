"""What an edit may claim to have done to its classes, in words, from the figures in its evidence."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["claims_of", "is_shallow", "outcome_of"]

_TOLERATED = 1 / 3  # of the depth; the goal is a mean, and how far networks differ


def claims_of(evidence: Mapping[str, float]) -> tuple[str, ...]:
    """Return what an edit did to its classes.

    Args:
        evidence: Of its receipt.

    Returns:
        Some of "silenced", "disconnected" and "dispersed"; none where the evidence does not say.
    """
    found = {
        "silenced": evidence.get("silenced_by", 0.0) > 0,
        "disconnected": evidence.get("disconnected", 0.0) > 0,
        "dispersed": evidence.get("dispersed", 0.0) > 0,
    }
    return tuple(name for name, holds in found.items() if holds)


def outcome_of(evidence: Mapping[str, float]) -> str:
    """Return in words what an edit did to its classes, how deep, and what was short of its goal.

    Args:
        evidence: Of its receipt.

    Returns:
        A phrase such as "disconnected, 12.0 nats deep"; empty where the evidence does not say.

    Example:
        >>> outcome_of({"silenced_by": 0.0, "disconnected": 1.0, "output_depth": 3.14, "output_depth_goal": 12.0})
        'disconnected, 3.1 of 12 nats deep'
    """
    by_output = [name for name in claims_of(evidence) if name != "dispersed"]
    parts: list[str] = []
    if by_output:
        parts.append(", ".join([*by_output, *_depth(evidence)]))
    elif "disconnected" in evidence:
        parts.append("neither silenced nor disconnected")
    if "dispersed" in evidence:
        parts.append(("" if evidence["dispersed"] > 0 else "not ") + "dispersed" + _features(evidence))
    return "; ".join(parts)


def is_shallow(evidence: Mapping[str, float]) -> bool:
    """Return whether the output layer puts the classes less deep than it was to, by more than networks differ."""
    goal = evidence.get("output_depth_goal", 0.0)
    return evidence.get("output_depth", goal) < (1 - _TOLERATED) * goal


def _depth(evidence: Mapping[str, float]) -> list[str]:
    if "output_depth" not in evidence:  # of an older version
        return [f"by {evidence['silenced_by']:.1f} nats"] if evidence.get("silenced_by") else []
    of_goal = f" of {evidence['output_depth_goal']:.3g}" if is_shallow(evidence) else ""
    return [f"{evidence['output_depth']:.1f}{of_goal} nats deep"]


def _features(evidence: Mapping[str, float]) -> str:
    left, goal = evidence.get("features_left"), evidence.get("features_left_goal")
    if left is None:
        return ""
    missed = f", goal {goal:.0%}" if goal is not None and not evidence["dispersed"] else ""
    return f", {left:.0%} of the way left{missed}"
