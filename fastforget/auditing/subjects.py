"""What each model of an audit predicts for each part of the data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypedDict

from torch import nn

from fastforget.classifier.data_forms import Batches
from fastforget.classifier.predictions import Predictions, collect_predictions

__all__ = ["AuditData", "Compared", "Subject", "Subjects", "compared"]


@dataclass(frozen=True, eq=False)
class AuditData:
    """Batches (inputs, targets), each gone through several times.

    Attributes:
        forget: The samples to forget.
        remain: The remaining training data.
        test: Data that no model was trained on.
    """

    forget: Batches
    remain: Batches
    test: Batches


@dataclass(frozen=True, eq=False)
class Subject:
    """One model and its predictions.

    Attributes:
        model: The eager module.
        forget: Predictions for the samples to forget.
        remain: Predictions for the remaining data.
        test: Predictions for the test data.
    """

    model: nn.Module
    forget: Predictions
    remain: Predictions
    test: Predictions

    @classmethod
    def of(cls, model: nn.Module, data: AuditData) -> Subject:
        """Run a model on all of the data."""
        parts = {name: getattr(data, name) for name in ("forget", "remain", "test")}
        return cls(model, **{name: collect_predictions(model, part, name) for name, part in parts.items()})

    @cached_property
    def forgotten_classes(self) -> list[int]:
        """The classes of the samples to forget, in order."""
        return sorted(set(self.forget.targets.tolist()))

    @cached_property
    def remaining_classes(self) -> list[int]:
        """The classes of the remaining data, in order."""
        return sorted(set(self.remain.targets.tolist()))

    @cached_property
    def unseen(self) -> Predictions:
        """Predictions for the test samples of the classes to forget: what forgotten samples should look like."""
        return self.test.of_classes(self.forgotten_classes)

    def counted(self, part: str) -> Predictions:
        """Return the predictions whose accuracy counts: of a class none of whose samples remain, none should be right.

        Args:
            part: "forget", "remain", or "test", of which only classes that remain count.
        """
        if part == "test":
            return self.test.of_classes(self.remaining_classes)
        return self.forget if part == "forget" else self.remain


class Compared(TypedDict):
    """One figure of each model, named as in `Metric`."""

    value: Any
    original: Any
    retrained: Any


@dataclass(frozen=True, eq=False)
class Subjects:
    """The models of an audit.

    Attributes:
        audited: The model.
        original: The model before forgetting, or None.
        retrained: The model trained again without the samples, or None.
    """

    audited: Subject
    original: Subject | None = None
    retrained: Subject | None = None

    @property
    def gone_classes(self) -> list[int]:
        """The classes to forget none of whose samples remain, in order."""
        return sorted(set(self.audited.forgotten_classes) - set(self.audited.remaining_classes))

    def __iter__(self) -> Iterator[tuple[str, Subject]]:
        """Yield those that there are by the names that reports use: "model", "original", "retrained"."""
        yield "model", self.audited
        if self.original is not None:
            yield "original", self.original
        if self.retrained is not None:
            yield "retrained", self.retrained

    def compare(self, figure: Callable[[Subject], Any]) -> Compared:
        """Return a figure of each model, None for those that there are not."""
        return compared({name: figure(subject) for name, subject in self})


def compared(figures: Mapping[str, Any]) -> Compared:
    """Return figures by the names of reports as the fields of a `Metric`."""
    return {
        "value": figures["model"],
        "original": figures.get("original"),
        "retrained": figures.get("retrained"),
    }
