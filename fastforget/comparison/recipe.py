"""How networks are trained where the configuration names no function for it."""

from __future__ import annotations

from typing import Any

from torch import nn

from fastforget.baselines.fine_tuning import retrain

__all__ = ["train"]


def train(model: nn.Module, data: Any, *, epochs: int, lr: float = 0.1, seed: int = 0) -> None:
    """Train a fresh model in place, as `fastforget.baselines.retrain` does.

    Args:
        model: The classifier.
        data: Samples (inputs, targets).
        epochs: Passes.
        lr: The highest learning rate.
        seed: Of dropout and shuffling.
    """
    retrain(model, [], data, epochs=epochs, lr=lr, seed=seed)
