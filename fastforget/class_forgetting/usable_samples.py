"""Which of the samples that a caller gives are of use for a request, and what is missing among them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from fastforget.class_forgetting.given_samples import GivenSamples
from fastforget.errors import ShallowForgettingWarning, UnrecognisedCodesError

__all__ = ["listed", "sample_counts", "usable_samples", "warn_of_missing"]

_LISTED = 10  # classes that a text names


def usable_samples(given: GivenSamples, level: str | None, classes: Sequence[int], live: Sequence[int]) -> GivenSamples:
    """Return the samples that a request uses.

    * Those of classes forgotten earlier are left out: they are neither to be held nor to be goals.
    * Samples without classes stand for remaining classes, so those that the model takes for a class to forget are left
      out. At the level "features" all have the classes that the model takes them for.
    * Samples of a class to forget are used if the model recognises one of them at least. Else they are left out at the
      level "output", which does without, and used at the level "features", which takes a class that is forgotten
      already out of the features.

    Args:
        given: All samples.
        level: How deep the classes are to be forgotten; None for as deep as codes and samples allow.
        classes: The classes to forget.
        live: All classes that were not forgotten earlier.

    Returns:
        Those that are used.

    Raises:
        ValueError: There is none of a remaining class.
        UnrecognisedCodesError: The model recognises no sample of a class to forget, and no level was asked for.
    """
    labelled = given.targets is not None
    remaining = [cls for cls in live if cls not in classes]
    if not labelled and level == "features":
        given = given.as_predicted()
    elif not labelled:
        given = given.not_taken_for(classes)
        if not len(given.predicted):
            raise ValueError(
                f"`samples` must hold some of remaining classes, but the model takes all of them for class "
                f"{listed(classes)}: give inputs of other classes"
            )
    if given.targets is None:
        return given
    if not given.hold_any(remaining):
        raise ValueError("`samples` must hold some of remaining classes, got none")
    given = given.only(live)
    unknown = [cls for cls in classes if given.recognised(cls)[0] == 0 < given.recognised(cls)[1]]
    if unknown and level == "output":
        return given.only([cls for cls in live if cls not in unknown])
    if unknown and level is None:
        raise UnrecognisedCodesError(_unrecognised(given, unknown[0]))
    return given


def sample_counts(given: GivenSamples | None, classes: Sequence[int]) -> dict[str, float]:
    """Return for the receipt how many samples of the classes were used, and how many the model recognised, if not all.

    Args:
        given: The samples that were used; None without.
        classes: The classes to forget.
    """
    counts = [] if given is None else [given.recognised(cls) for cls in classes]
    known, used = sum(known for known, _ in counts), sum(used for _, used in counts)
    return {} if known == used else {"forget_samples_used": float(used), "forget_samples_recognised": float(known)}


def warn_of_missing(given: GivenSamples, remaining: Sequence[int]) -> None:
    """Warn the caller's caller where features are dispersed and nothing holds those of some remaining classes.

    Args:
        given: The samples.
        remaining: The classes that remain.
    """
    missing = given.missing(remaining)
    if missing:
        warnings.warn(
            f"`samples` hold none of class {listed(missing)}: nothing holds these classes while features are "
            "dispersed. Give some samples of each, or pass `floor` to hold an accuracy",
            ShallowForgettingWarning,
            stacklevel=3,
        )


def listed(classes: Sequence[int]) -> str:
    """Return the numbers of classes as a text, the first ones where there are many."""
    more = f" and {len(classes) - _LISTED} more" if len(classes) > _LISTED else ""
    return ", ".join(map(str, classes[:_LISTED])) + more


def _unrecognised(given: GivenSamples, cls: int) -> str:
    _, used = given.recognised(cls)
    taken = ", ".join(f"{count} for class {other}" for other, count in given.taken_for(cls)[:_LISTED])
    return (
        f"`samples` of class {cls} must be known to the model, but it recognises none of {used}: it takes {taken}. "
        "Check their targets, or give samples that it recognises. If the class was forgotten already, "
        '`level="features"` takes it out of the features too; `level="output"` does without these samples'
    )
