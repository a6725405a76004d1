"""How fast a model learns again what it was made to forget."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fastforget.classifier.kept_values import keep_nothing
from fastforget.classifier.modes import enable_recurrent_backward
from fastforget.classifier.predictions import collect_predictions
from fastforget.classifier.running import forward, logits_of

__all__ = ["AGAIN", "again_curve", "relearning_curve", "steps_to"]

AGAIN = (1, 5, 20, 50)  # steps whose accuracies are metrics

_WATCHED = (0, 1, 2, 5, 10, 20, 35, 50)
_HALF = (torch.float16, torch.bfloat16)

Batch = tuple[Any, Tensor]


def relearning_curve(model: nn.Module, forget: Iterable[Batch], *, steps: int, lr: float = 1e-3) -> list[float]:
    """Train a copy on the samples to forget, a batch a step, and watch its accuracy on them.

    Adam, in eval mode: what batch norms remember is not a part of it. Weights of half precision are learnt in float32:
    theirs would not hold the square of a gradient, nor a step of this size.

    Args:
        model: The eager module, not changed.
        forget: Batches (inputs, targets), gone through as often as needed.
        steps: How many.
        lr: The learning rate.

    Returns:
        The accuracy before the first step and after each, in [0, 1].
    """
    scratch = _Scratch(model)
    batches = scratch.widened(forget)
    optimizer = torch.optim.Adam(scratch.model.parameters(), lr)
    curve = [collect_predictions(scratch.model, batches, "forget").accuracy]
    for step in range(steps):
        inputs, targets = batches[step % len(batches)]
        optimizer.zero_grad()
        logits = logits_of(forward(scratch.model, inputs))
        F.cross_entropy(logits, targets.to(logits.device)).backward()
        optimizer.step()
        curve.append(collect_predictions(scratch.model, batches, "forget").accuracy)
    return curve


def again_curve(
    model: nn.Module,
    few: Iterable[Batch],
    unseen: Iterable[Batch],
    offsets: Tensor | None = None,
    watched: Sequence[int] = _WATCHED,
) -> list[tuple[int, float]]:
    """Train a copy on a few samples of all classes, all of them each step, and watch a class come back.

    SGD with learning rate 0.01 and momentum 0.9, in eval mode. That all classes are learnt keeps the model from saying
    the class for everything.

    Args:
        model: The eager module, not changed.
        few: Batches (inputs, targets) of samples of all classes, a step together.
        unseen: Batches of test samples of the classes that are watched.
        offsets: Added to the logits throughout, [C], nats; None for none.
        watched: After how many steps to look, in order.

    Returns:
        Pairs: the number of steps, and the accuracy on ``unseen`` then, in [0, 1].
    """
    scratch = _Scratch(model)
    few, unseen = scratch.widened(few), scratch.widened(unseen)
    total = sum(len(targets) for _, targets in few)
    optimizer = torch.optim.SGD(scratch.model.parameters(), 0.01, momentum=0.9)
    curve = []
    for step in range(watched[-1] + 1):
        if step in watched:
            curve.append((step, _accuracy(scratch.model, unseen, offsets)))
        if step == watched[-1]:
            break
        optimizer.zero_grad()
        for inputs, targets in few:
            logits = _logits(scratch.model, inputs, offsets)
            (F.cross_entropy(logits, targets.to(logits.device), reduction="sum") / total).backward()
        optimizer.step()
    return curve


def _logits(model: nn.Module, inputs: Any, offsets: Tensor | None) -> Tensor:
    logits = logits_of(forward(model, inputs))
    return logits if offsets is None else logits + offsets.to(logits)


@torch.no_grad()
def _accuracy(model: nn.Module, batches: Iterable[Batch], offsets: Tensor | None) -> float:
    """Return the accuracy, in [0, 1]. Logits that are no longer finite are wrong: learning ran away."""
    right = []
    for inputs, targets in batches:
        logits = _logits(model, inputs, offsets)
        right.append((logits.argmax(1) == targets.to(logits.device)) & logits.isfinite().all(1))
    return float(torch.cat(right).double().mean())


class _Scratch:
    """A copy of a model that may be trained, and batches of its precision."""

    def __init__(self, model: nn.Module) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_()
        enable_recurrent_backward(self.model)
        keep_nothing(self.model)
        self._half = any(parameter.dtype in _HALF for parameter in self.model.parameters())
        if self._half:
            self.model = self.model.float()

    def widened(self, batches: Iterable[Batch]) -> list[Batch]:
        """Return the batches in float32 where the model was of half precision."""
        kept = list(batches)
        return pytree.tree_map_only(Tensor, _widened, kept) if self._half else kept


def _widened(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in _HALF else tensor


def steps_to(curve: list[float], accuracy: float) -> int:
    """Return after how many steps an accuracy is reached first; one more than there are if it is not."""
    return next((step for step, found in enumerate(curve) if found >= accuracy), len(curve))
