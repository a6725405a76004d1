"""What would take classes further out of a model than an edit did, and what that takes, in words."""

from __future__ import annotations

from collections.abc import Mapping

from fastforget.edits.claims import claims_of, is_shallow

__all__ = ["advice_of"]

_MORE_SAMPLES = "`samples=(inputs, targets)` with some 16 of each class takes the class out of the features too"
_UNLEARN = (
    "`learn_to_unlearn` changes the whole network, but needs training samples of the class and of the rest, and some "
    "sixty training steps"
)
_INSCRIBE = (
    "`inscribe` teaches the model codes in a pass over training data; later classes are then forgotten without "
    "samples, and in the body too"
)


def advice_of(rule: str, evidence: Mapping[str, float], *, coded: bool) -> str:
    """Return what would go deeper.

    Args:
        rule: Of the edit.
        evidence: Of its receipt.
        coded: Whether it was made from codes.

    Returns:
        Phrases with "; " between, in the words of the Python interface; empty where the edit reached what such edits
        can reach, and where its evidence does not say what it reached.

    Example:
        >>> advice_of("natural", {"disconnected": 1.0, "dispersed": 1.0}, coded=False)
        ''
        >>> advice_of("natural", {"disconnected": 1.0}, coded=True)
        '`samples=(inputs, targets)` with some 16 of each class takes the class out of the features too'
    """
    if "disconnected" not in evidence or rule == "learn_to_unlearn":
        return ""
    claims = claims_of(evidence)
    found: list[str] = []
    if "disconnected" in claims and is_shallow(evidence) and not coded:
        found.append("samples of the class itself fit the output row to it")
    if "dispersed" in evidence and "dispersed" not in claims:
        found.append("more samples of each class may take it further out of the features")
    elif "dispersed" not in claims:
        found.append(_MORE_SAMPLES)
    if "dispersed" not in claims and (not coded or "dispersed" in evidence or "disconnected" not in claims):
        found.append(_UNLEARN)
    if not coded and "dispersed" not in claims:
        found.append(_INSCRIBE)
    return "; ".join(found)
