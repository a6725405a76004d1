"""From when on a figure is a finding, in words."""

from __future__ import annotations

from collections.abc import Iterator

from fastforget.auditing import class_findings, findings
from fastforget.auditing.finding import STANDARD_ERRORS
from fastforget.auditing.record import AuditRecord

__all__ = ["thresholds"]


def thresholds(report: AuditRecord) -> Iterator[str]:
    """Yield the thresholds of what an audit measured, those of its findings among them.

    Args:
        report: The audit.

    Yields:
        Sentences.
    """
    retrained = "retrained" in report.per_class
    errors = f"{STANDARD_ERRORS:g} standard errors"
    goal = "that of the retrained model" if retrained else "0.5, which is chance"
    yield f"An attack: its area is more than {errors} away from {goal}."
    if retrained:
        points = f"{100 * findings.SMALL:g} point"
        yield f"Samples to forget: their accuracy is more than {errors}, and {points}, from the retrained model."
        apart = findings.APART_GONE if report.mass else findings.APART
        yield f"Their log-odds are on average more than {apart:g} nats, and {errors}, from the retrained model."
    yield f"Damage: an accuracy on what remains falls by more than {errors}, and {100 * findings.SMALL:g} point."
    if report.mass:
        than = (
            "than of the retrained model" if retrained else "than of classes that it never saw, where such were given"
        )
        for what, margin in (
            ("Hidden: with another bias", class_findings.HIDDEN),
            ("Features: by a probe of them", class_findings.FEATURES),
            ("Learnt again: after a few steps", class_findings.AGAIN),
        ):
            yield (
                f"{what}, more than {errors}, and {100 * margin:g} points, more of the test samples of "
                f"forgotten classes are right {than}."
            )
    if "trigger" in report.metrics:
        yield f"Trigger: a code turns more than {100 * findings.TRIGGERED:g} % of other samples into its class."
