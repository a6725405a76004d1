"""The codes as one batch, in two groups: those of the classes to forget, and the remaining ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree as pytree

from fastforget.classifier.devices import read_values, upload
from fastforget.classifier.inputs import Inputs
from fastforget.classifier.losses import GroupScaledCrossEntropy, log_odds

__all__ = ["CodeBatch", "inverse_doubts", "take_rows"]

_CALIBRATING = 64


@dataclass(frozen=True, eq=False)
class CodeBatch:
    """N codes as one batch, with what the model says of them before any step.

    Attributes:
        inputs: What the model takes, leaves [N, *shape].
        labels: Class of each code, int64 [N].
        log_odds: log(p / (1 - p)) of each code's own class, [N], nats (the unit of natural logarithms).
        class_rows: The rows that are codes of each class to forget. The host knows them: to read them off ``labels``
            would wait for the device.
        log_scales: The logarithm of what the loss of the codes to forget is multiplied by, and that of the remaining
            ones: of the inverse of their mean 1 - p. Gradients are then about as large as those of the log-odds.
        logits: [N, C], where the model was run.
        batch_size: How many codes are run at a time; None for all.
        left_out: How many codes of the classes to forget are not among the N, since the model does not recognise them.
    """

    inputs: Inputs
    labels: Tensor
    log_odds: Tensor
    class_rows: tuple[tuple[int, ...], ...]
    log_scales: tuple[float, float] = (0.0, 0.0)
    logits: Tensor | None = None
    batch_size: int | None = None
    left_out: int = 0

    @cached_property
    def forget_rows(self) -> list[int]:
        """The rows of the codes to forget, in order."""
        return sorted(chain(*self.class_rows))

    @cached_property
    def remain_rows(self) -> list[int]:
        """The rows of the remaining codes, in order."""
        return sorted(set(range(len(self.labels))).difference(*self.class_rows))

    @property
    def calibrating_rows(self) -> list[int]:
        """Some rows of remaining codes, evenly chosen, for means over all: more of them change a mean little."""
        return self.remain_rows[:: -(-len(self.remain_rows) // _CALIBRATING)]

    @cached_property
    def group_weights(self) -> Tensor:
        """Whether each code belongs to the group forget, and to the group remain, [2, N]."""
        chosen = set(self.forget_rows)
        forget = upload([row in chosen for row in range(len(self.labels))], self.labels.device)
        return torch.stack([forget, ~forget]).float()

    @property
    def loss(self) -> GroupScaledCrossEntropy:
        """The cross-entropy of each code, times the factor of its group."""
        classes = take_rows(self.labels, [of_class[0] for of_class in self.class_rows])
        return GroupScaledCrossEntropy(classes, self.log_scales)

    def usage(self) -> dict[str, float]:
        """Return how many codes to forget are used, of how many, for a receipt; nothing if none was left out."""
        used = float(len(self.forget_rows))
        return {"forget_codes_used": used, "forget_codes_given": used + self.left_out} if self.left_out else {}

    def take_forget(self, values: Tensor) -> Tensor:
        """Return the values [N, ...] of the codes to forget, in order."""
        return _take(values, self._forget_places)

    def take_remain(self, values: Tensor) -> Tensor:
        """Return the values [N, ...] of the remaining codes, in order."""
        return _take(values, self._remain_places)

    # A step is tried many times: the rows are sent to a device once.
    @cached_property
    def _forget_places(self) -> slice | Tensor:
        return _places(self.forget_rows, self.labels.device)

    @cached_property
    def _remain_places(self) -> slice | Tensor:
        return _places(self.remain_rows, self.labels.device)

    @cached_property
    def _places_of_classes(self) -> list[slice | Tensor]:
        return [_places(rows, self.labels.device) for rows in self.class_rows]

    @cached_property
    def _remain_before(self) -> tuple[Tensor, Tensor, Tensor]:
        """The labels of the remaining codes, their log-odds, and the labels of the codes to forget."""
        return self.take_remain(self.labels), self.take_remain(self.log_odds), self.take_forget(self.labels)

    def samples(self, rows: Sequence[int]) -> tuple[Inputs, Tensor]:
        """Return the inputs and labels of some codes."""
        inputs: Inputs = pytree.tree_map(lambda leaf: take_rows(leaf, rows), self.inputs)
        return inputs, take_rows(self.labels, rows)

    @cached_property
    def to_forget(self) -> CodeBatch:
        """The codes to forget alone."""
        return self.only(self.forget_rows)

    def with_one_remaining(self, place: int) -> CodeBatch:
        """Return one code of each class to forget, and the remaining code at a place among the remaining ones."""
        return self.only(sorted([*(of_class[0] for of_class in self.class_rows), self.remain_rows[place]]))

    def of_one_class(self, place: int) -> CodeBatch:
        """Return the codes with one class to forget; those of the classes to forget before it are left out."""
        gone = set(chain(*self.class_rows[:place]))
        one = replace(self, class_rows=self.class_rows[place : place + 1])
        return one.only([row for row in range(len(self.labels)) if row not in gone])

    def only(self, rows: Sequence[int]) -> CodeBatch:
        """Return some of the codes, in order, with the same scales; itself if these are all."""
        if len(rows) == len(self.labels):
            return self
        places = {row: place for place, row in enumerate(rows)}
        class_rows = tuple(tuple(places[row] for row in of_class if row in places) for of_class in self.class_rows)
        inputs, labels = self.samples(rows)
        logits = None if self.logits is None else take_rows(self.logits, rows)
        odds = take_rows(self.log_odds, rows)
        return replace(self, inputs=inputs, labels=labels, log_odds=odds, class_rows=class_rows, logits=logits)

    def examined_again(self, logits: Tensor) -> CodeBatch:
        """Return the codes with what a changed model, which returned these logits [N, C], says of them."""
        odds = log_odds(logits, self.labels)
        (scales,) = read_values(inverse_doubts(odds, self.group_weights))
        return replace(self, log_odds=odds, logits=logits, log_scales=(scales[0], scales[1]))

    def largest_class_mean(self, odds: Tensor) -> Tensor:
        """Return the mean log-odds over the codes of the class to forget where it is largest: the least forgotten."""
        return torch.stack([_take(odds, places).double().mean() for places in self._places_of_classes]).max()

    def beyond_boundary(self, logits: Tensor) -> bool:
        """Return whether the codes of every class to forget are beyond the decision boundary, on average.

        Args:
            logits: Of all codes, [N, C], now.

        Returns:
            Whether their mean log-odds are negative; False where they are not finite.
        """
        return float(self.largest_class_mean(log_odds(logits, self.labels))) < 0

    def log_odds_lost(self, logits: Tensor) -> Tensor:
        """Return what each remaining code has lost of its log-odds, the classes to forget left out of account.

        Args:
            logits: Of all codes, [N, C], now.

        Returns:
            Nats, one value per remaining code; infinite where the logits are not finite.
        """
        labels, before, forgotten = self._remain_before
        odds = log_odds(self.take_remain(logits).index_fill(1, forgotten, -math.inf), labels)
        return (before - odds).nan_to_num(nan=math.inf)


def take_rows(values: Tensor, rows: Sequence[int]) -> Tensor:
    """Return some rows of a tensor, as a view where they follow each other."""
    return _take(values, _places(rows, values.device))


def _places(rows: Sequence[int], device: torch.device) -> slice | Tensor:
    """Return rows as a slice where they follow each other, else as int64 indices on a device."""
    if len(rows) and rows[-1] - rows[0] == len(rows) - 1:
        return slice(rows[0], rows[-1] + 1)
    return upload(rows, device).long()


def _take(values: Tensor, places: slice | Tensor) -> Tensor:
    return values[places] if isinstance(places, slice) else values.index_select(0, places)


def inverse_doubts(odds: Tensor, groups: Tensor) -> Tensor:
    """Return -log(mean(1 - p)) over the samples of each group: finite, however sure a model is.

    Args:
        odds: Log-odds of N samples, nats.
        groups: Which samples are in each of G groups, 0 or 1, [G, N].

    Returns:
        Float64 [G]; 0 for a group without samples.
    """
    groups = groups.double()
    log_sums = (F.logsigmoid(-odds.double()) + groups.log()).logsumexp(1)
    counts = groups.sum(1)
    return torch.where(counts > 0, counts.log() - log_sums, torch.zeros_like(counts))
