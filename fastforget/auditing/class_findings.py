"""What speaks against a model in which classes are gone: they are hidden, in its features, or soon learnt again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from fastforget.auditing.finding import STANDARD_ERRORS, Finding, error_of_difference
from fastforget.auditing.metric import Metric
from fastforget.auditing.subjects import Subjects

__all__ = ["AGAIN", "FEATURES", "HIDDEN", "find_in_classes"]

# Differences of accuracy, beside those of chance, that two networks show which were trained alike with other seeds.
HIDDEN = 0.10
FEATURES = 0.05
AGAIN = 0.10

_BIASES = {"with a usual bias": "the usual bias of a class", "with the old bias": "the bias of the original"}
_PROBES = {"linear probe": "a linear probe", "nearest class mean": "the nearest class mean"}
# Not after 50: of two retrained networks of the digits, one had 2 % of a class then and the other 100 %.
_RELEARNING = ("again 5", "again 20", "again 5 with a usual bias")


def find_in_classes(metrics: Mapping[str, Metric], subjects: Subjects) -> Iterator[Finding]:
    """Yield what speaks against the model, see `fastforget.auditing.class_measures`.

    Args:
        metrics: By name.
        subjects: The models and their predictions.
    """
    unseen = subjects.audited.test.of_classes(subjects.gone_classes)
    samples = len(unseen.targets)
    for name, bias in _BIASES.items():
        excess = _Excess.of(metrics.get(name), samples, HIDDEN, without=0.0)
        # A class that is predicted as the model stands is not hidden.
        if excess and excess.value - unseen.accuracy > excess.threshold:
            yield Finding("hidden", f"with {bias}, {excess.text} are right")
    for name, probe in _PROBES.items():
        if excess := _Excess.of(metrics.get(name), samples, FEATURES):
            yield Finding("still in the features", f"by {probe} of the features, {excess.text} are right")
    for name in _RELEARNING:
        if excess := _Excess.of(metrics.get(name), samples, AGAIN):
            steps, _, bias = name.removeprefix("again ").partition(" ")
            how = f"{steps} SGD steps on ten samples of each class{', ' * bool(bias)}{bias}"
            text = f"after {how}, {excess.text} are right"
            yield Finding("easier to learn again", text)


@dataclass(frozen=True)
class _Excess:
    """An accuracy on forgotten classes that is above what a model shows that never saw them.

    Attributes:
        value: The accuracy, in [0, 1].
        threshold: How far above it had to be.
        text: Which share of the samples, and what it is compared with.
    """

    value: float
    threshold: float
    text: str

    @classmethod
    def of(cls, metric: Metric | None, samples: int, margin: float, without: float | None = None) -> _Excess | None:
        """Compare a metric with its value for the retrained model, or else for classes that this model never saw.

        Of these the largest counts: one class is told by its features more easily than another.

        Args:
            metric: It, or None where it was not measured.
            samples: Of how many it is a share.
            margin: What may differ beside chance.
            without: The value where there is neither; None to compare with nothing.

        Returns:
            What is above it, or None.
        """
        if metric is None or metric.value is None:
            return None
        goal, whose = without, "0 % expected"
        if metric.retrained is not None:
            goal, whose = metric.retrained, f"of the retrained model {100 * metric.retrained:.1f} %"
        elif metric.novel:
            goal, whose = max(metric.novel), f"of classes that it never saw up to {100 * max(metric.novel):.1f} %"
        if goal is None:
            return None
        error = error_of_difference(metric.value, goal, samples)
        threshold = max(margin, STANDARD_ERRORS * error)
        if metric.value - goal <= threshold:
            return None
        text = f"{100 * metric.value:.1f} % of the test samples of forgotten classes ({whose}; standard error of the "
        text += f"difference {100 * error:.1f} points, threshold {100 * threshold:.1f})"
        return cls(metric.value, threshold, text)
