"""Samples in a safetensors file: what a model takes, and `targets`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fastforget.batch import Inputs, split_samples
from fastforget.cli.checkpoints import Checkpoint, read_tensors
from fastforget.cli.progress import shown
from fastforget.forgetting.code_batch import fitting_logits

__all__ = ["Batches", "batches", "read"]


def read(path: Path, checkpoint: Checkpoint) -> tuple[Inputs, Tensor]:
    """Read samples.

    The file holds `targets`, int64 [N], and either `inputs`, [N, ...], or tensors [N, ...] that are named as the
    arguments of the model's forward.

    Args:
        path: The file.
        checkpoint: Of the module; floating-point inputs are converted to its dtype, and all is moved to its device.

    Returns:
        Inputs and targets.

    Raises:
        OSError: There is no such file.
        ValueError: It holds something else, or what the module does not take.
    """
    tensors, _ = read_tensors(path)
    targets = tensors.pop("targets", None)
    if targets is None or targets.dtype != torch.int64 or targets.dim() != 1 or not len(targets):
        found = "none" if targets is None else f"{targets.dtype} of shape {tuple(targets.shape)}"
        raise ValueError(f"`{path}` must hold `targets`, torch.int64 of shape (N,), got {found}")
    if not tensors or ("inputs" in tensors and len(tensors) > 1):
        raise ValueError(f"`{path}` must hold `inputs`, or the arguments of the model by name, got {sorted(tensors)}")
    for name, tensor in tensors.items():
        if not tensor.dim() or len(tensor) != len(targets):
            raise ValueError(
                f"`{path}` must hold as many `{name}` as targets, {len(targets)}, got shape {tuple(tensor.shape)}"
            )
    like = checkpoint.like
    placed = {
        name: tensor.to(like.device, like.dtype if tensor.is_floating_point() else tensor.dtype)
        for name, tensor in tensors.items()
    }
    inputs: Inputs = placed.get("inputs", placed)
    first, _ = next(split_samples(inputs, targets, 1))
    fitting_logits(checkpoint.model, first, str(path))
    return inputs, targets.to(like.device)


@dataclass(frozen=True)
class Batches:
    """Batches of samples, with a progress bar whenever they are gone through.

    Attributes:
        title: Of the bar.
        parts: The batches.
    """

    title: str
    parts: Sequence[tuple[Inputs, Tensor]]

    def __len__(self) -> int:
        """Return how many batches there are."""
        return len(self.parts)

    def __iter__(self) -> Iterator[tuple[Inputs, Tensor]]:
        """Yield them."""
        return shown(self.parts, self.title, "batch")


def batches(path: Path, checkpoint: Checkpoint, size: int) -> Batches:
    """Read samples, in order, as batches of ``size``."""
    inputs, targets = read(path, checkpoint)
    return Batches(path.name, list(split_samples(inputs, targets, len(targets), size)))
