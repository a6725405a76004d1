"""What the demo measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Trained:
    """A trained model, judged on the test set.

    Attributes:
        confusion: int64 [C, C], row = true class, column = predicted class.
        seconds: How long training took.
    """

    confusion: Tensor
    seconds: float


@dataclass(frozen=True)
class Forgotten:
    """One class forgotten by one call.

    Attributes:
        cls: The class.
        confusion: Of the model after forgetting, like `Trained.confusion`.
        changed: How many parameters were touched.
        share: The same as a share in [0, 1].
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
        dataset: Its name.
        class_names: C names.
        original: The model trained on all classes with codes.
        forgotten: One entry per forgotten class, each from the original.
        retrained: A model trained from scratch without the first of these classes.
    """

    dataset: str
    class_names: tuple[str, ...]
    original: Trained
    forgotten: list[Forgotten]
    retrained: Trained

    def as_json(self) -> dict[str, Any]:
        """Everything, in numbers, names, lists and dicts.

        Returns:
            What `json.dumps` takes.
        """
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
            "retrained": {
                "without": self.forgotten[0].cls,
                "forget": forget,
                "remain": remain,
                "confusion": self.retrained.confusion.tolist(),
                "seconds": self.retrained.seconds,
            },
        }


def class_accuracies(confusion: Tensor) -> list[float]:
    """Reads the accuracy of every class from a confusion matrix.

    Args:
        confusion: [C, C], rows = true classes.

    Returns:
        C shares in [0, 1]; nan for a class without samples.
    """
    shares: list[float] = (confusion.diagonal() / confusion.sum(1)).tolist()
    return shares


def split_accuracy(confusion: Tensor, cls: int) -> tuple[float, float]:
    """Reads how well one class and the others together are recognised.

    Args:
        confusion: [C, C], rows = true classes.
        cls: The class.

    Returns:
        The accuracy over the samples of the class, and over all other samples, in [0, 1].
    """
    correct, total = confusion.diagonal(), confusion.sum(1)
    forget, samples = int(correct[cls]), int(total[cls])
    return forget / samples, (int(correct.sum()) - forget) / (int(total.sum()) - samples)
