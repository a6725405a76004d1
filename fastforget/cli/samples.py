"""Samples in a safetensors file: `targets`, and the inputs of a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fastforget.classifier.fitting import checked_logits
from fastforget.classifier.inputs import Inputs, split_samples
from fastforget.classifier.running import gather_logits
from fastforget.cli.checkpoints import LoadedModel, read_tensors
from fastforget.cli.progress import with_progress
from fastforget.codes.mnemonic_codes import MnemonicCodes

__all__ = ["BatchesWithProgress", "batches", "read", "read_codes", "read_with_or_without_targets"]

_BATCH_SIZE = 256  # samples that are run at once


def read(path: Path, loaded: LoadedModel) -> tuple[Inputs, Tensor]:
    """Read samples, and move them to the device of a model.

    The file holds `targets`, int64 [N], and the inputs. A single input is called `inputs`, [N, ...]. Several inputs
    have the names of the arguments of the model's forward.

    Args:
        path: The file.
        loaded: The model; floating-point inputs are converted to its dtype.

    Returns:
        Inputs and targets.

    Raises:
        OSError: There is no such file.
        ValueError: It holds something else, or the model does not take the inputs.
    """
    inputs, targets = read_with_or_without_targets(path, loaded)
    if targets is None:
        raise ValueError(f"`{path}` must hold `targets`, torch.int64 of shape (N,), got none")
    return inputs, targets


def read_with_or_without_targets(path: Path, loaded: LoadedModel) -> tuple[Inputs, Tensor | None]:
    """Read samples as `read` does; the file need not hold `targets`, then None is returned in their place."""
    tensors, targets = _read_checked(path)
    like = loaded.first_parameter
    converted = {
        name: tensor.to(like.device, like.dtype if tensor.is_floating_point() else tensor.dtype)
        for name, tensor in tensors.items()
    }
    inputs: Inputs = converted.get("inputs", converted)
    first_sample, _ = next(split_samples(inputs, targets, 1))
    checked_logits(loaded.model, first_sample, str(path))
    return inputs, None if targets is None else targets.to(like.device)


def read_codes(path: Path, per_class: int, loaded: LoadedModel | None = None) -> MnemonicCodes:
    """Take the first samples of each class as codes.

    Args:
        path: The file, as for `read`.
        per_class: How many of each class.
        loaded: The model; only samples that it recognises are then taken.

    Returns:
        The codes, of as many classes as the largest target says.

    Raises:
        OSError: There is no such file.
        ValueError: It holds something else, or too few samples of a class.
    """
    tensors, targets = _read_checked(path)
    if targets is None:
        raise ValueError(f"`{path}` must hold `targets`, torch.int64 of shape (N,), got none")
    if int(targets.min()) < 0:
        raise ValueError(f"`targets` of `{path}` must be classes from 0 on, got {int(targets.min())}")
    usable = torch.ones_like(targets, dtype=torch.bool) if loaded is None else _recognised(path, loaded)
    rows = [(usable & (targets == cls)).nonzero()[:per_class, 0] for cls in range(int(targets.max()) + 1)]
    for cls, of_class in enumerate(rows):
        if len(of_class) < per_class:
            given = int((targets == cls).sum())
            known = "" if loaded is None else f" that the model recognises, of {given}"
            fewer = "; `--per-class` can ask for fewer" if len(of_class) else ""
            raise ValueError(
                f"`{path}` must hold {per_class} samples of class {cls}, got {len(of_class)}{known}{fewer}"
            )
    chosen = torch.stack(rows)
    stacked = {name: tensor[chosen] for name, tensor in tensors.items()}
    return MnemonicCodes.from_tensors(stacked.get("inputs", stacked))


def _recognised(path: Path, loaded: LoadedModel) -> Tensor:
    """Return which samples of a file the model takes for what they are, bool [N]."""
    inputs, targets = read(path, loaded)
    logits = gather_logits(lambda some: checked_logits(loaded.model, some, str(path)), inputs, _BATCH_SIZE)
    return (logits.argmax(1) == targets).cpu()


def _read_checked(path: Path) -> tuple[dict[str, Tensor], Tensor | None]:
    """Return the tensors of a file without the targets, and these, after checking that they fit each other."""
    tensors, _ = read_tensors(path)
    targets = tensors.pop("targets", None)
    if targets is not None and (targets.dtype != torch.int64 or targets.dim() != 1 or not len(targets)):
        given = f"{targets.dtype} of shape {tuple(targets.shape)}"
        raise ValueError(f"`{path}` must hold `targets`, torch.int64 of shape (N,), got {given}")
    if not tensors or ("inputs" in tensors and len(tensors) > 1):
        raise ValueError(f"`{path}` must hold `inputs`, or the arguments of the model by name, got {sorted(tensors)}")
    # Without targets, the first input says how many samples there are.
    counted, first = ("targets", targets) if targets is not None else next(iter(tensors.items()))
    samples = len(first) if first.dim() else 0
    for name, tensor in tensors.items():
        if not samples or not tensor.dim() or len(tensor) != samples:
            raise ValueError(
                f"`{path}` must hold as many `{name}` as {counted}, {samples}, got shape {tuple(tensor.shape)}"
            )
    return tensors, targets


@dataclass(frozen=True)
class BatchesWithProgress:
    """Batches of samples. Each pass over them shows a progress bar.

    Attributes:
        title: The text before the bar.
        parts: The batches.
    """

    title: str
    parts: Sequence[tuple[Inputs, Tensor]]

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self.parts)

    def __iter__(self) -> Iterator[tuple[Inputs, Tensor]]:
        """Yield the batches."""
        return with_progress(self.parts, self.title, "batch")


def batches(path: Path, loaded: LoadedModel, size: int) -> BatchesWithProgress:
    """Read samples, in order, as batches of ``size``."""
    inputs, targets = read(path, loaded)
    return BatchesWithProgress(path.name, list(split_samples(inputs, targets, len(targets), size)))
