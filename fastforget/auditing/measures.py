"""The metrics of an audit from predictions and time, each of all its models; attacks have a file of their own."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from torch import nn

from fastforget.auditing.cost import Cost
from fastforget.auditing.distances import activation_distance, agreement, divergence
from fastforget.auditing.features import ModelFeatures
from fastforget.auditing.metric import Metric
from fastforget.auditing.relearning import steps_to
from fastforget.auditing.similarity import debiased_cka
from fastforget.auditing.subjects import Subject, Subjects, compared
from fastforget.auditing.trigger import triggered_share
from fastforget.classifier.data_forms import Batches
from fastforget.classifier.modes import reproducible
from fastforget.classifier.predictions import Predictions, collect_predictions
from fastforget.codes.mnemonic_codes import MnemonicCodes

__all__ = [
    "measure_accuracies",
    "measure_cost_metrics",
    "measure_distances",
    "measure_relearning",
    "measure_similarity",
    "measure_trigger",
]

_RELEARNT = 0.95  # of the original's accuracy
_CKA_TARGET: dict[str, Literal["retrained", "higher"]] = {"original": "retrained", "retrained": "higher"}


def measure_accuracies(subjects: Subjects) -> Iterator[Metric]:
    """Yield the accuracy on each part of the data, and the loss on the samples to forget."""
    targets: dict[str, Any] = {"forget": "retrained", "remain": "higher", "test": "retrained"}
    for part, target in targets.items():
        meaning = f"share of samples of `{part}` that are classified right"
        values = subjects.compare(lambda subject, part=part: subject.counted(part).accuracy)  # type: ignore[misc]
        yield Metric(f"{part} accuracy", target=target, meaning=meaning, **values)
    meaning = "mean cross-entropy on the samples to forget, nats"
    losses = subjects.compare(lambda subject: float(subject.forget.losses.mean()))
    yield Metric("forget loss", target="retrained", meaning=meaning, **losses)
    if subjects.retrained is not None:
        yield _tug_of_war(subjects, subjects.retrained)


def _tug_of_war(subjects: Subjects, retrained: Subject) -> Metric:
    """Return ToW of Zhao et al., "What makes unlearning hard and what to do about it", NeurIPS 2024."""

    def closeness(subject: Subject) -> float:
        apart = (
            abs(subject.counted(part).accuracy - retrained.counted(part).accuracy)
            for part in ("forget", "remain", "test")
        )
        return math.prod(1 - distance for distance in apart)

    values = {name: closeness(subject) for name, subject in subjects}
    meaning = "tug of war: product of 1 minus the distance to the retrained model's accuracy on forget, remain and test"
    return Metric("ToW", values["model"], "higher", meaning, values.get("original"))


def measure_distances(subjects: Subjects, forget: Batches) -> Iterator[Metric]:
    """Yield how far the predictions on the samples to forget are from a retrained and from a random network's."""
    if subjects.retrained is not None:
        goal = subjects.retrained.forget
        distances: tuple[tuple[str, Callable[[Predictions, Predictions], float], Any, str], ...] = (
            ("divergence", divergence, "lower", "Jensen-Shannon divergence of the predictions, bits"),
            ("distance", activation_distance, "lower", "mean Euclidean distance of the predicted probabilities"),
            ("agreement", agreement, "higher", "share of samples that both give the same class"),
        )
        for name, distance, target, meaning in distances:
            values = {key: distance(subject.forget, goal) for key, subject in subjects}
            text = f"to the retrained model on the samples to forget: {meaning}"
            yield Metric(name, values["model"], target, text, values.get("original"))
    random = _initialised_again(subjects.audited.model)
    if random is not None:
        chance = collect_predictions(random, forget, "forget")
        yield Metric(
            "zero retrain forgetting",
            target="retrained",
            meaning="1 minus the divergence from a random network on the samples to forget, in [0, 1]",
            **subjects.compare(lambda subject: 1 - divergence(subject.forget, chance)),
        )


def measure_similarity(features: Mapping[str, ModelFeatures | None]) -> Iterator[Metric]:
    """Yield how alike features of test samples are to the original's and to the retrained's, see `debiased_cka`.

    None for a model without an output layer, and where there is nothing to compare.
    """
    for goal in ("original", "retrained"):
        if goal in features:
            values = {name: _alike(found, features[goal]) for name, found in features.items()}
            meaning = f"centred kernel alignment of the features of test samples with the {goal}'s; 1 is equal"
            yield Metric(f"CKA to {goal}", target=_CKA_TARGET[goal], meaning=meaning, **compared(values))


def _alike(one: ModelFeatures | None, other: ModelFeatures | None) -> float | None:
    if one is None or other is None:
        return None
    found = debiased_cka(one.test.values, other.test.values)
    return None if math.isnan(found) else found


def _initialised_again(model: nn.Module) -> nn.Module | None:
    """Return the network with new random parameters, or None where a layer does not know how."""
    fresh = copy.deepcopy(model)
    with reproducible(model, 0):
        for module in fresh.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
            elif next(module.parameters(recurse=False), None) is not None:
                return None
    return fresh


def measure_relearning(curves: Mapping[str, list[float]], subjects: Subjects) -> Metric:
    """Return after how many steps each model has learnt the samples again."""
    before = subjects.original.forget.accuracy if subjects.original is not None else 1.0
    steps = {name: float(steps_to(curve, _RELEARNT * before)) for name, curve in curves.items()}
    meaning = "steps of learning the samples again until 95 % of the accuracy is back; one more than tried if it is not"
    return Metric("relearning steps", target="retrained", meaning=meaning, **compared(steps))


def measure_trigger(subjects: Subjects, codes: MnemonicCodes, test: Batches, classes: Sequence[int]) -> Metric:
    """Return how often a code of a class that is gone still turns other samples into it."""
    meaning = "share of other test samples that a code of the class, half mixed in, turns into it; of the worst class"
    shares = subjects.compare(lambda subject: triggered_share(subject.model, codes, test, classes))
    return Metric("trigger", target="lower", meaning=meaning, **shares)


def measure_cost_metrics(cost: Cost) -> Iterator[Metric]:
    """Yield what the method took."""
    yield Metric("time", cost.seconds, "lower", "wall time of the method, seconds")
    yield Metric("CPU time", cost.cpu_seconds, "lower", "CPU time of the method on all threads, seconds")
    if cost.peak_bytes is not None:
        yield Metric("peak memory", cost.peak_bytes / 2**20, "lower", "memory that the method took at its peak, MiB")
