"""Where the samples to forget of each step come from: an audit set with goals for each, or the loader as it is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

import torch
from torch import nn

from fastforget.unlearning.batches import Forgotten, Stream
from fastforget.unlearning.counterfactual import AuditSet

__all__ = ["Drawn", "Source", "Streamed", "source"]


class Streamed:
    """The batches of a loader, in its order."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def several(self, count: int) -> list[Forgotten]:
        """Return the next batches."""
        return [Forgotten(*batch) for batch in self._stream.several(count)]


class Drawn:
    """Batches drawn from an audit set, by a random state of their own."""

    def __init__(self, samples: AuditSet, size: int, seed: int) -> None:
        self._samples, self._size = samples, size
        self._generator = torch.Generator().manual_seed(seed)

    def several(self, count: int) -> list[Forgotten]:
        """Return the next batches."""
        return [self._samples.draw(self._size, self._generator) for _ in range(count)]


Source: TypeAlias = Streamed | Drawn


def source(
    model: nn.Module,
    forget: Iterable[tuple[Any, torch.Tensor]],
    remain: Stream,
    unseen: Iterable[tuple[Any, torch.Tensor]] | None,
    *,
    goals: bool | None,
    seed: int,
) -> Source:
    """Return where samples to forget come from.

    Args:
        model: The eager module, in eval mode.
        forget: Batches to forget, on its device.
        remain: The remaining data; gone through once for its classes, unless ``goals`` is False.
        unseen: Batches that it was not trained on, if there are any.
        goals: Whether samples must have goals; None for where they can be had: with ``unseen``, or where no class to
            forget remains.
        seed: Of what is drawn.

    Returns:
        The source.

    Raises:
        TypeError: A batch has the wrong type.
        ValueError: There is no batch, targets are no classes, or goals cannot be had.
    """
    stream = Stream(model, forget, "forget")
    if goals is False:
        return Streamed(stream)
    batches, remaining = stream.once(), remain.classes()
    gone = {label for _, targets in batches for label in targets.tolist()}
    if goals is None and unseen is None and gone & remaining:
        return Streamed(stream)
    return Drawn(AuditSet.of(model, batches, remaining, unseen), len(batches[0][1]), seed)
