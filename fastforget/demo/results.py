"""What the demo measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class TrainedModel:
    """A trained model, judged by the test set.

    Attributes:
        confusion: Confusion matrix, int64 [C, C]: row = true class, column = predicted class.
        seconds: How long training took.
    """

    confusion: Tensor
    seconds: float


@dataclass(frozen=True)
class ForgottenClass:
    """A class forgotten by one call.

    Attributes:
        cls: The class.
        confusion: Confusion matrix after forgetting, like `TrainedModel.confusion`.
        changed: Number of parameters that changed.
        share: Share of the parameters that changed, in [0, 1].
        milliseconds: How long the call took.
    """

    cls: int
    confusion: Tensor
    changed: int
    share: float
    milliseconds: float


@dataclass(frozen=True)
class DemoResult:
    """Everything the demo measured.

    Attributes:
        dataset: The name of the data set.
        class_names: The names of the C classes.
        original: The model trained on all classes with codes.
        forgotten: One entry for each class that was forgotten from the original.
        retrained: A model trained from scratch without the first of these classes.
        again: How the first of these classes comes back while all classes are learnt again from ten images of each:
            pairs (steps, accuracy on the class in [0, 1]) of the models "original", "forgotten" and "retrained".
    """

    dataset: str
    class_names: tuple[str, ...]
    original: TrainedModel
    forgotten: list[ForgottenClass]
    retrained: TrainedModel
    again: dict[str, list[tuple[int, float]]]

    def as_json(self) -> dict[str, Any]:
        """Return all of it as plain data for `json.dumps`."""
        rows = []
        for row in self.forgotten:
            forget_before, remain_before = split_accuracy(self.original.confusion, row.cls)
            forget_after, remain_after = split_accuracy(row.confusion, row.cls)
            rows.append(
                {
                    "class": row.cls,
                    "name": self.class_names[row.cls],
                    "forget_before": forget_before,
                    "forget_after": forget_after,
                    "remain_before": remain_before,
                    "remain_after": remain_after,
                    "parameters_changed": row.changed,
                    "share_changed": row.share,
                    "milliseconds": row.milliseconds,
                    "confusion": row.confusion.tolist(),
                }
            )
        forget, remain = split_accuracy(self.retrained.confusion, self.forgotten[0].cls)
        return {
            "dataset": self.dataset,
            "class_names": list(self.class_names),
            "original": {"confusion": self.original.confusion.tolist(), "seconds": self.original.seconds},
            "forgotten": rows,
            "again": {name: [list(point) for point in curve] for name, curve in self.again.items()},
            "retrained": {
                "without": self.forgotten[0].cls,
                "forget": forget,
                "remain": remain,
                "confusion": self.retrained.confusion.tolist(),
                "seconds": self.retrained.seconds,
            },
        }


def class_accuracies(confusion: Tensor) -> list[float]:
    """Return the accuracy of each class from a confusion matrix.

    Args:
        confusion: Confusion matrix [C, C], rows = true classes.

    Returns:
        C accuracies in [0, 1]; NaN for a class without samples.
    """
    accuracies: list[float] = (confusion.diagonal() / confusion.sum(1)).tolist()
    return accuracies


def split_accuracy(confusion: Tensor, cls: int) -> tuple[float, float]:
    """Return the accuracy on one class, and on all others together.

    Args:
        confusion: Confusion matrix [C, C], rows = true classes.
        cls: The class.

    Returns:
        The two accuracies, in [0, 1].
    """
    correct, total = confusion.diagonal(), confusion.sum(1)
    forget, samples = int(correct[cls]), int(total[cls])
    return forget / samples, (int(correct.sum()) - forget) / (int(total.sum()) - samples)
