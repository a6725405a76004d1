"""What speaks against an audited model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from fastforget.auditing.class_findings import find_in_classes
from fastforget.auditing.finding import STANDARD_ERRORS, Finding, error_of_difference
from fastforget.auditing.metric import Metric
from fastforget.auditing.subjects import Subject, Subjects

__all__ = ["APART", "APART_GONE", "SMALL", "TRIGGERED", "find_all"]

SMALL = 0.01  # of an accuracy; less is not worth a finding
# Nats between the mean log-odds of two retrained models: of samples whose classes remain, and of classes that are gone.
# Training without a class leaves open how deep its logit ends: retrained networks of one kind differ by some nats.
APART, APART_GONE = 1.0, 5.0
TRIGGERED = 0.05  # share of samples that a code may turn into its class by accident


def find_all(metrics: Mapping[str, Metric], subjects: Subjects) -> list[Finding]:
    """Return everything that speaks against the audited model.

    Args:
        metrics: By name.
        subjects: The models and their predictions.

    Returns:
        The findings, those of attacks first.
    """
    findings = [finding for metric in metrics.values() if (finding := _attack_finding(metric))]
    findings += _forget_findings(metrics["forget accuracy"], subjects)
    if subjects.gone_classes:
        findings += find_in_classes(metrics, subjects)
    findings += _damage_findings(metrics, subjects.audited)
    trigger = metrics.get("trigger")
    if trigger is not None and trigger.value is not None and trigger.value > TRIGGERED + (trigger.retrained or 0.0):
        text = f"a code turns {100 * trigger.value:.1f} % of other samples into its class"
        findings.append(Finding("trigger", text))
    return findings


def _attack_finding(metric: Metric) -> Finding | None:
    if not metric.name.startswith("attack: ") or metric.value is None or not metric.error:
        return None
    goal = 0.5 if metric.retrained is None else metric.retrained
    errors_apart = (metric.value - goal) / metric.error
    attack = metric.name.removeprefix("attack: ")
    text = f"the attack by {attack} has an area of {metric.value:.3f}, where {goal:.3f} is expected: the samples "
    if errors_apart > STANDARD_ERRORS:
        return Finding("remembers", f"{text}still look trained on")
    if errors_apart < -STANDARD_ERRORS:
        return Finding("over-forgotten", f"{text}look less known than unseen ones, which gives them away")
    return None


def _forget_findings(metric: Metric, subjects: Subjects) -> Iterator[Finding]:
    if subjects.retrained is None or metric.retrained is None or metric.value is None:
        return
    apart = metric.value - metric.retrained
    error = error_of_difference(metric.value, metric.retrained, len(subjects.audited.forget.targets))
    if abs(apart / error) > STANDARD_ERRORS and abs(apart) > SMALL:
        text = f"{100 * metric.value:.1f} % of the samples to forget are right, of the retrained model "
        yield Finding("remembers" if apart > 0 else "over-forgotten", f"{text}{100 * metric.retrained:.1f} %")
    margin = APART_GONE if subjects.gone_classes else APART
    yield from _odds_findings(subjects.audited, subjects.retrained, margin)


def _odds_findings(audited: Subject, retrained: Subject, margin: float) -> Iterator[Finding]:
    """Compare with the retrained model sample by sample: unseen ones may be as far off as those to forget."""
    apart = audited.forget.odds - retrained.forget.odds
    mean, error = float(apart.mean()), float(apart.std(correction=0)) / math.sqrt(len(apart))
    if abs(mean) > max(margin, STANDARD_ERRORS * error):
        text = f"the samples to forget have log-odds that are {abs(mean):.1f} nats "
        text += "above those of the retrained model on average" if mean > 0 else "below those of the retrained model"
        yield Finding("remembers" if mean > 0 else "over-forgotten", text)


def _damage_findings(metrics: Mapping[str, Metric], audited: Subject) -> Iterator[Finding]:
    for part in ("remain", "test"):
        metric = metrics[f"{part} accuracy"]
        goal = metric.original if part == "remain" or metric.retrained is None else metric.retrained
        if goal is None or metric.value is None:
            continue
        lost = goal - metric.value
        error = error_of_difference(goal, metric.value, len(audited.counted(part).targets))
        if lost > max(SMALL, STANDARD_ERRORS * error):
            yield Finding("damaged", f"{100 * lost:.1f} points of accuracy on `{part}` are lost")
