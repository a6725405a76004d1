"""How fast a model learns again what it was made to forget."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fastforget.batch import forward, logits_of
from fastforget.model import ready_recurrent
from fastforget.observation import observe

__all__ = ["relearning_curve", "steps_to"]

_HALF = (torch.float16, torch.bfloat16)


def relearning_curve(
    model: nn.Module, forget: Iterable[tuple[Any, Tensor]], *, steps: int, lr: float = 1e-3
) -> list[float]:
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
    batches, scratch = list(forget), copy.deepcopy(model).eval().requires_grad_()
    ready_recurrent(scratch)
    if any(parameter.dtype in _HALF for parameter in scratch.parameters()):
        scratch, batches = scratch.float(), pytree.tree_map_only(Tensor, _widened, batches)
    optimizer = torch.optim.Adam(scratch.parameters(), lr)
    curve = [observe(scratch, batches, "forget").accuracy]
    for step in range(steps):
        inputs, targets = batches[step % len(batches)]
        optimizer.zero_grad()
        logits = logits_of(forward(scratch, inputs))
        F.cross_entropy(logits, targets.to(logits.device)).backward()
        optimizer.step()
        curve.append(observe(scratch, batches, "forget").accuracy)
    return curve


def _widened(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in _HALF else tensor


def steps_to(curve: list[float], accuracy: float) -> int:
    """Return after how many steps an accuracy is reached first; one more than there are if it is not."""
    return next((step for step, found in enumerate(curve) if found >= accuracy), len(curve))
