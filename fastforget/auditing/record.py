"""The data of an audit: what the report says and the page draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fastforget.auditing.finding import Finding
from fastforget.auditing.metric import Metric

__all__ = ["AuditRecord"]


@dataclass(frozen=True)
class AuditRecord:
    """What an audit measured and found.

    Attributes:
        model: Fingerprint of the audited model.
        created: When, UTC, ISO 8601.
        metrics: By name.
        findings: What speaks against the model. An empty list does not show that all is well.
        cannot_judge: What could not be judged, and what that would have taken.
        per_class: Accuracy on test samples of each class, by model: "model", "original", "retrained".
        mass: Share of the test samples of forgotten classes that each class is predicted for, by model; of classes none
            of whose samples remain.
        losses: Cross-entropy, nats, of the samples to forget, of those that remain and of unseen ones.
        confidences: The largest probability of each of the same samples.
        curves: Accuracy on the samples to forget while they are learnt again, a value a step, by model.
        again: Accuracy on test samples of the same classes as ``mass`` while a few samples of all classes are learnt:
            pairs of the number of steps and the accuracy then, by model.
        scores: Scores of the loss attack on samples to forget and on unseen ones.
        seconds: Wall time of the audit by phase, after that of the method where it is known.
        names: What classes 0, 1, ... are called; None where this is not known.
    """

    model: str
    created: str
    metrics: Mapping[str, Metric]
    findings: Sequence[Finding]
    cannot_judge: Sequence[str]
    per_class: Mapping[str, Sequence[float | None]]
    mass: Mapping[str, Sequence[float]]
    losses: Mapping[str, Sequence[float]] = field(repr=False)
    confidences: Mapping[str, Sequence[float]] = field(repr=False)
    curves: Mapping[str, Sequence[float]] = field(repr=False)
    again: Mapping[str, Sequence[tuple[int, float]]] = field(repr=False)
    scores: Mapping[str, Sequence[float]] = field(repr=False)
    seconds: Mapping[str, float] = field(repr=False)
    names: Sequence[str] | None = field(default=None, repr=False)

    @property
    def gap(self) -> float | None:
        """The mean distance to the retrained model over the accuracies and the loss attack, or None without one.

        The average gap of Fan et al., "SalUn", ICLR 2024, in [0, 1].
        """
        names = ("forget accuracy", "remain accuracy", "test accuracy", "attack: loss")
        gaps = [self.metrics[name].gap for name in names if self.metrics[name].retrained is not None]
        known = [gap for gap in gaps if gap is not None]
        return sum(known) / len(known) if len(known) == len(names) else None
