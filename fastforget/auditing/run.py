"""The audit: measure every model, then say what speaks against the audited one."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from itertools import chain

from torch import nn

from fastforget.auditing import attack_measures, measures
from fastforget.auditing.attacks import SCORES
from fastforget.auditing.class_measures import FEW, KNOWN, ClassMeasures
from fastforget.auditing.cost import Cost
from fastforget.auditing.features import ModelFeatures
from fastforget.auditing.few_samples import first_of_each
from fastforget.auditing.findings import find_all
from fastforget.auditing.limits import find_limits
from fastforget.auditing.metric import Metric
from fastforget.auditing.novel_classes import NovelClass, divide
from fastforget.auditing.phases import ShownClock, phase_bar
from fastforget.auditing.relearning import relearning_curve
from fastforget.auditing.report import AuditReport
from fastforget.auditing.subjects import AuditData, Subject, Subjects
from fastforget.classifier.arguments import check_integer
from fastforget.classifier.class_names import class_names, read_names
from fastforget.classifier.clock import Clock
from fastforget.classifier.compilation import eager
from fastforget.classifier.data_forms import Batches, LabelledData, batches_of
from fastforget.classifier.fingerprint import fingerprint
from fastforget.classifier.modes import reproducible
from fastforget.classifier.predictions import collect_predictions
from fastforget.classifier.problem_type import check_one_class_each
from fastforget.codes.mnemonic_codes import MnemonicCodes
from fastforget.membership.model import MembershipModel

__all__ = ["audit"]

_LOG = logging.getLogger(__name__)


def audit(
    model: nn.Module,
    forget: LabelledData,
    remain: LabelledData,
    test: LabelledData,
    *,
    original: nn.Module | None = None,
    retrained: nn.Module | None = None,
    novel: LabelledData | None = None,
    shadows: Sequence[nn.Module] = (),
    attacks: Mapping[str, MembershipModel] | None = None,
    codes: MnemonicCodes | None = None,
    relearning_steps: int = 20,
    cost: Cost | None = None,
    names: Sequence[str] | None = None,
    progress: bool = False,
) -> AuditReport:
    """Measure what a model still knows of samples it was made to forget, and what that cost the rest.

    The samples to forget are compared with unseen ones: the test samples of the same classes. The best value is
    nearly always that of a model trained again without them (``retrained``), not zero. A model on which they look
    less known than on the retrained one gives them away as well: it is called over-forgotten.

    ============================ ======================================================================================
    forget, remain, test         accuracy on each, in [0, 1], of ``test`` on classes that remain; ``forget loss``: mean
                                 cross-entropy, nats
    ToW                          product of 1 minus the distance to the retrained model's accuracies (Zhao et al., 2024)
    attack: ...                  area under the curve of telling the samples to forget from unseen ones, by loss,
                                 confidence, entropy, modified entropy, correctness; by ``attacks``; with one of
                                 ``shadows`` by RMIA, with two also by likelihood ratio
    TPR at ... FPR: ...          share of the samples to forget that the same attacks find at 0.1 % and 1 % false
                                 positives; only where there are enough unseen samples
    relearning steps             Adam steps on the samples to forget until 95 % of the original's accuracy is back
    divergence, distance,        from the retrained model's predictions on the samples to forget: Jensen-Shannon
    agreement                    divergence, bits; Euclidean distance; share of equal classes
    CKA to original, retrained   how alike the features of test samples are to theirs (`debiased_cka`)
    zero retrain forgetting      1 minus the divergence from a random network (Chundawat et al., 2023)
    trigger                      share of test samples of other classes that a code of a forgotten class, half mixed in,
                                 turns into that class; of classes none of whose samples remain
    with ... bias                accuracy on test samples of such classes with other biases, which cannot hide them: the
                                 best on ten samples of each class, the one that classes of the model usually have, the
                                 old one (`fastforget.auditing.best_bias`)
    linear probe,                their accuracy by classifiers of the features, trained on 50 and on ten samples of each
    nearest class mean           class (`fastforget.auditing.probes`)
    again ...                    their accuracy after so many SGD steps on ten samples of each class
    time, peak memory            of the method, with ``cost``, see `measure_cost`
    ============================ ======================================================================================

    Of classes none of whose samples remain, what is found is named: *hidden*, where another bias brings them back;
    *still in the features* and *easier to learn again*, each beyond what the retrained model shows, by more than four
    standard errors and more than two networks differ that were trained with different seeds. Without a retrained model
    the last two are judged by ``novel``: classes that the model never saw, put in the place of the forgotten one. A
    finding is what exceeds the best known of them. What cannot be judged is in ``report.cannot_judge``.

    Source: metrics and attacks name theirs where they are defined.

    Args:
        model: The classifier, with logits [N, C] from its forward; run in eval mode, not changed.
        forget: Batches (inputs, targets) that it was to forget, on its device, or another form of samples, see
            `fastforget.classifier.data_forms.batches_of`; gone through several times.
        remain: Batches of remaining training data.
        test: Batches of test data that no model was trained on.
        original: The model before forgetting; it shows what forgetting cost.
        retrained: The model trained again without the samples.
        novel: Samples of classes that the model was never trained on, at least 20 of each. Their targets are numbers of
            one's own, one for each class. Only where a class none of whose samples remain is forgotten.
        shadows: Models trained like the original without the samples, for the attacks by reference models.
        attacks: Membership models of the original, by name. Leave out those whose feedback the method used.
        codes: Mnemonic codes of the model, for the trigger. Inputs must then be one floating-point tensor.
        relearning_steps: How many steps of learning the samples again are watched; 0 for no learning again at all.
        cost: What the method took, see `measure_cost`.
        names: What classes 0, 1, ... are called, for the report; by default as ``model.config.id2label`` has it.

        progress: Whether to show a bar, in notebooks and where standard error is a terminal; needs tqdm.

    Returns:
        The report.

    Raises:
        TypeError: A model, targets or names have the wrong type.
        ValueError: There are no samples, or ``test`` has none of a class to forget. Targets are no classes of the
            model, logits are not finite, or models, codes and names differ in their number of classes.

    Example:
        >>> import torch
        >>> batches = [[(torch.randn(30, 4), torch.arange(30) % 3)] for _ in range(3)]
        >>> report = audit(nn.Linear(4, 3), *batches)
        >>> sorted(report.metrics)[:3]
        ['attack: confidence', 'attack: correctness', 'attack: entropy']
    """
    strangers = () if novel is None else tuple(divide(novel))
    settings = AuditSettings(
        tuple(shadows), dict(attacks or {}), codes, relearning_steps, cost, strangers, read_names(names)
    )
    beside = {"original": original, "retrained": retrained}
    given = {"model": eager(model), **{name: eager(other) for name, other in beside.items() if other is not None}}
    for module in given.values():
        check_one_class_each(module)
    with reproducible(given["model"], 0), phase_bar(shown=progress) as bar:
        parts = {"forget": forget, "remain": remain, "test": test}
        data = AuditData(**{name: _repeatable(part, name) for name, part in parts.items()})
        report = _measure(given, data, settings, ShownClock(bar))
    _LOG.info("audit: %r", report)
    return report


@dataclass(frozen=True, eq=False)
class AuditSettings:
    """What is measured beside the accuracies; see `audit`."""

    shadows: tuple[nn.Module, ...]
    attacks: Mapping[str, MembershipModel]
    codes: MnemonicCodes | None
    relearning_steps: int
    cost: Cost | None
    novel: tuple[NovelClass, ...] = ()
    names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Check all that needs no model to be run."""
        check_integer("relearning_steps", self.relearning_steps, least=0)
        if self.cost is not None and not isinstance(self.cost, Cost):
            raise TypeError(f"`cost` must be of `measure_cost`, got {type(self.cost).__name__}")
        for name, attack in self.attacks.items():
            if not isinstance(attack, MembershipModel):
                raise TypeError(f"`attacks` must be membership models, got {type(attack).__name__}")
            if name in (*SCORES, *attack_measures.BY_SHADOWS):
                raise ValueError(f"`attacks` must have names of their own, got {name!r}")


def _repeatable(data: LabelledData, name: str) -> Batches:
    batches = batches_of(data, name)
    return batches if isinstance(data, (Sequence, Mapping)) else list(batches)


def _measure(models: Mapping[str, nn.Module], data: AuditData, settings: AuditSettings, clock: Clock) -> AuditReport:
    with clock.phase("accuracy"):
        examined = {name: Subject.of(module, data) for name, module in models.items()}
        subjects = Subjects(examined["model"], examined.get("original"), examined.get("retrained"))
        _check_classes(subjects, settings)
        metrics = list(measures.measure_accuracies(subjects))
    with clock.phase("attacks"):
        metrics += attack_measures.measure_attacks(subjects, settings.attacks)
        if settings.shadows:
            shadows = [Subject.of(eager(shadow), data) for shadow in settings.shadows]
            metrics += attack_measures.measure_shadow_attacks(subjects, shadows)
    with clock.phase("distances"):
        metrics += measures.measure_distances(subjects, data.forget)
    with clock.phase("features"):
        known = first_of_each(chain(data.forget, data.remain), KNOWN)
        features = {name: ModelFeatures.of(subject.model, known, data.test) for name, subject in subjects}
        metrics += measures.measure_similarity(features)
    drawn = _Drawn()
    if subjects.gone_classes:
        novel = [each.in_place_of(subjects.gone_classes[0]) for each in settings.novel]
        leftovers = ClassMeasures(subjects, subjects.gone_classes, first_of_each(known, FEW), data.test, novel)
        drawn.mass = leftovers.mass()
        with clock.phase("bias"):
            metrics += leftovers.biases()
        with clock.phase("features"):
            metrics += leftovers.probes(features)
    with clock.phase("relearning"):
        if settings.relearning_steps:
            for name, subject in subjects:
                drawn.curves[name] = relearning_curve(subject.model, data.forget, steps=settings.relearning_steps)
            metrics.append(measures.measure_relearning(drawn.curves, subjects))
            if subjects.gone_classes:
                drawn.again = leftovers.curves()
                metrics += leftovers.again(drawn.again)
    with clock.phase("trigger"):
        metrics += _trigger(subjects, settings.codes, data)
    drawn.limits = list(
        find_limits(
            subjects,
            features,
            len(settings.shadows),
            learnt_again=settings.relearning_steps > 0,
            novel=bool(settings.novel),
        )
    )
    phases = {name: seconds for name, seconds in clock.seconds().items() if name != "total"}
    report = _report({metric.name: metric for metric in metrics}, subjects, drawn, phases)
    report = replace(report, names=settings.names or class_names(models["model"]))
    return report if settings.cost is None else _with_cost(report, settings.cost)


@dataclass
class _Drawn:
    """What a report has beside its metrics and findings, see `AuditRecord`."""

    mass: Mapping[str, list[float]] = field(default_factory=dict)
    curves: dict[str, list[float]] = field(default_factory=dict)
    again: Mapping[str, list[tuple[int, float]]] = field(default_factory=dict)
    limits: Sequence[str] = ()


def _check_classes(subjects: Subjects, settings: AuditSettings) -> None:
    counts = {name: subject.forget.logits.shape[1] for name, subject in subjects}
    if len(set(counts.values())) > 1:
        raise ValueError(f"models must have the same number of classes, got {counts}")
    for name, given in (("codes", settings.codes), ("names", settings.names)):
        if given is not None and len(given) != counts["model"]:
            raise ValueError(f"`{name}` must be of {counts['model']} classes, got {len(given)}")
    audited = subjects.audited
    tested = set(audited.test.targets.tolist())
    missing = set(audited.forgotten_classes) - tested
    if missing:
        raise ValueError(f"`test` must hold samples of every class to forget, got none of {sorted(missing)}")
    if settings.novel and not subjects.gone_classes:
        raise ValueError("`novel` must be left out where samples of the same classes remain, which it cannot judge")
    for novel in settings.novel:
        collect_predictions(audited.model, novel.in_place_of(0).known, "novel")
    if tested.isdisjoint(audited.remaining_classes):
        raise ValueError(f"`test` must hold samples of classes that remain, got none of {audited.remaining_classes}")


def _trigger(subjects: Subjects, codes: MnemonicCodes | None, data: AuditData) -> Iterator[Metric]:
    """Yield the metric of the codes of classes none of whose samples remain."""
    if codes is not None and subjects.gone_classes:
        yield measures.measure_trigger(subjects, codes, data.test, subjects.gone_classes)


def _report(
    metrics: Mapping[str, Metric],
    subjects: Subjects,
    drawn: _Drawn,
    seconds: Mapping[str, float],
) -> AuditReport:
    audited = subjects.audited
    shown = {"forget": audited.forget, "remain": audited.remain, "unseen": audited.unseen}
    return AuditReport(
        model=fingerprint(audited.model),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        metrics=metrics,
        findings=find_all(metrics, subjects),
        cannot_judge=drawn.limits,
        per_class={name: subject.test.per_class() for name, subject in subjects},
        mass=drawn.mass,
        losses={name: predictions.losses.tolist() for name, predictions in shown.items()},
        confidences={name: predictions.confidences.tolist() for name, predictions in shown.items()},
        curves=drawn.curves,
        again=drawn.again,
        scores={name: SCORES["loss"](shown[name]).tolist() for name in ("forget", "unseen")},
        seconds=seconds,
    )


def _with_cost(report: AuditReport, cost: Cost) -> AuditReport:
    spent = {metric.name: metric for metric in measures.measure_cost_metrics(cost)}
    phases = {f"method: {name}": value for name, value in (cost.phases or {"all": cost.seconds}).items()}
    return replace(report, metrics={**report.metrics, **spent}, seconds={**phases, **report.seconds})
