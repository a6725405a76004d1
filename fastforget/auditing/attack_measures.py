"""How well attacks tell the samples to forget from unseen ones, for each model of an audit."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastforget.auditing.attacks import SCORES, Area, caught_share, likelihood_ratio
from fastforget.auditing.metric import Metric, Target
from fastforget.auditing.reference_attack import log_ratios, robust_ratios
from fastforget.auditing.subjects import Subject, Subjects, compared
from fastforget.classifier.predictions import Predictions
from fastforget.membership.model import MembershipModel

__all__ = ["BY_SHADOWS", "FALSE_POSITIVES", "measure_attacks", "measure_shadow_attacks", "resolved"]

BY_SHADOWS = ("likelihood ratio", "RMIA")
FALSE_POSITIVES = (0.001, 0.01)

Score = Callable[[Predictions], Tensor]


@dataclass(frozen=True, eq=False)
class _Scored:
    """Samples with what an attack says of them: predictions, and a score of these."""

    score: Score
    forget: Predictions
    test: Predictions


def measure_attacks(subjects: Subjects, models: Mapping[str, MembershipModel]) -> Iterator[Metric]:
    """Yield the metrics of each attack: those that need no model of their own, then ``models``."""
    scores = {**SCORES, **{name: _score_of(model) for name, model in models.items()}}
    for name, score in scores.items():

        def scored(subject: Subject, score: Score = score) -> _Scored:
            return _Scored(score, subject.forget, subject.test)

        yield from _metrics(name, scored, subjects)


def _score_of(attack: MembershipModel) -> Score:
    exact = copy.deepcopy(attack).cpu().double()

    def score(predictions: Predictions) -> Tensor:
        with torch.no_grad():
            odds: Tensor = exact(predictions.logits, predictions.targets)
        return odds

    return score


def measure_shadow_attacks(subjects: Subjects, shadows: Sequence[Subject]) -> Iterator[Metric]:
    """Yield the metrics of the attacks by reference models: `likelihood_ratio` with two or more, `robust_ratios`."""
    forget, test = [shadow.forget for shadow in shadows], [shadow.test for shadow in shadows]

    def by_ratio(subject: Subject) -> _Scored:
        scores = likelihood_ratio(subject.forget, forget), likelihood_ratio(subject.test, test)
        return _carried(subject, *scores)

    def by_robust_ratio(subject: Subject) -> _Scored:
        population = log_ratios(subject.test, test)
        scores = [robust_ratios(seen, by, population) for seen, by in ((subject.forget, forget), (subject.test, test))]
        return _carried(subject, *scores)

    for name, attack in zip(BY_SHADOWS, (by_ratio, by_robust_ratio), strict=True):
        if len(shadows) > 1 or name == "RMIA":
            yield from _metrics(name, attack, subjects)


def _carried(subject: Subject, forget: Tensor, test: Tensor) -> _Scored:
    """Hand scores over in place of logits: they depend on the sample, not on its predictions alone."""
    carriers = [
        Predictions(torch.stack([scores, -scores], 1), predictions.targets)
        for scores, predictions in ((forget, subject.forget), (test, subject.test))
    ]
    return _Scored(lambda carrier: carrier.logits[:, 0], *carriers)


def resolved(subjects: Subjects, rate: float) -> bool:
    """Return whether there are enough unseen samples to tell a share ``rate`` of them from none."""
    return len(subjects.audited.unseen.targets) * rate >= 1


def _metrics(attack: str, scored: Callable[[Subject], _Scored], subjects: Subjects) -> Iterator[Metric]:
    samples = {name: scored(subject) for name, subject in subjects}
    yield _area_metric(attack, {name: Area.of(s.score, s.forget, s.test) for name, s in samples.items()})
    for rate in FALSE_POSITIVES:
        if resolved(subjects, rate):
            values = {name: caught_share(s.score, s.forget, s.test, rate) for name, s in samples.items()}
            meaning = f"share of samples to forget that {attack} finds at {100 * rate:g} % false positives"
            target: Target = rate if subjects.retrained is None else "retrained"
            yield Metric(f"TPR at {100 * rate:g} % FPR: {attack}", target=target, meaning=meaning, **compared(values))


def _area_metric(attack: str, areas: Mapping[str, Area]) -> Metric:
    meaning = f"area under the curve of telling samples to forget from unseen ones by {attack}; 0.5 is chance"
    values = compared({name: area.value for name, area in areas.items()})
    target: Target = "retrained" if "retrained" in areas else 0.5
    return Metric(f"attack: {attack}", target=target, meaning=meaning, error=areas["model"].error, **values)
