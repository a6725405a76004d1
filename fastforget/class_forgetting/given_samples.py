"""Real samples that a caller gives beside the codes, or in their place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fastforget.classifier.devices import DeferredChecks, upload
from fastforget.classifier.fitting import checked_logits
from fastforget.classifier.inputs import Inputs, check_finite, count_samples, plain, transform
from fastforget.classifier.labelled_batches import joined
from fastforget.classifier.running import gather_logits

__all__ = ["GivenSamples", "read_samples"]


@dataclass(frozen=True, eq=False)
class GivenSamples:
    """Some samples, where the model is.

    Attributes:
        inputs: What the model takes, leaves [N, ...].
        targets: Their classes, int64 [N]; None where they are not known.
        predicted: What the model takes them for, int64 [N].
        classes: C, the number of classes of the model.
    """

    inputs: Inputs
    targets: Tensor | None
    predicted: Tensor
    classes: int

    def as_predicted(self) -> GivenSamples:
        """Return the samples with what the model takes them for as their classes."""
        return replace(self, targets=self.predicted)

    def missing(self, classes: Sequence[int]) -> list[int]:
        """Return those of some classes of which there is no sample, known as such."""
        held = set() if self.targets is None else set(self.targets.tolist())
        return [cls for cls in classes if cls not in held]

    def recognised(self, cls: int) -> tuple[int, int]:
        """Return how many samples of a class the model takes for it, and how many there are."""
        if self.targets is None:
            return 0, 0
        of_class = self.targets == cls
        return int((self.predicted[of_class] == cls).sum()), int(of_class.sum())

    def taken_for(self, cls: int) -> list[tuple[int, int]]:
        """Return the classes that the model takes samples of a class for, with how many, the most frequent first."""
        if self.targets is None:
            return []
        found, counts = self.predicted[self.targets == cls].unique(return_counts=True)
        return sorted(zip(found.tolist(), counts.tolist(), strict=True), key=lambda pair: (-pair[1], pair[0]))

    def hold_all(self, classes: Sequence[int]) -> bool:
        """Return whether there is a sample of each of these classes, known as such."""
        return self.targets is not None and set(classes) <= set(self.targets.unique().tolist())

    def hold_any(self, classes: Sequence[int]) -> bool:
        """Return whether there is a sample of one of these classes, known as such."""
        return self.targets is not None and bool(self._are_of(classes).any())

    def only(self, classes: Sequence[int]) -> GivenSamples:
        """Return the samples that are not known to be of other classes than these."""
        if self.targets is None:
            return self
        return self._those(self._are_of(classes))

    def not_taken_for(self, classes: Sequence[int]) -> GivenSamples:
        """Return the samples that the model takes for other classes than these."""
        return self._those(~torch.isin(self.predicted, upload(list(classes), self.predicted.device)))

    def of(self, classes: Sequence[int]) -> Inputs:
        """Return the samples of these classes; ``targets`` must be known."""
        return self._where(self._are_of(classes))

    def without(self, classes: Sequence[int]) -> Inputs:
        """Return the samples that are not known to be of these classes."""
        return self.inputs if self.targets is None else self._where(~self._are_of(classes))

    def _are_of(self, classes: Sequence[int]) -> Tensor:
        if self.targets is None:
            raise ValueError("the classes of these samples are not known")
        return torch.isin(self.targets, upload(list(classes), self.targets.device))

    def _those(self, keep: Tensor) -> GivenSamples:
        targets = None if self.targets is None else self.targets[keep]
        return replace(self, inputs=self._where(keep), targets=targets, predicted=self.predicted[keep])

    def _where(self, keep: Tensor) -> Inputs:
        return transform(lambda leaf: leaf[keep], self.inputs)


def read_samples(samples: object, model: nn.Module, like: Tensor, batch_size: int | None) -> GivenSamples:
    """Check the argument ``samples`` of `one_shot` and move it to the model's device.

    Args:
        samples: (inputs, targets), or (inputs, None), or samples with their classes in any form that
            `fastforget.classifier.data_forms.batches_of` takes; all of them are held in memory.
        model: The eager module, which is run on them.
        like: One of its parameters.
        batch_size: How many samples are run at a time; None for all.

    Returns:
        The samples.

    Raises:
        TypeError: They are something else.
        ValueError: They do not fit each other or the model, or hold NaN or infinity.
    """
    inputs, targets = _pair_of(samples)
    count_samples(inputs, targets)
    inputs, targets = pytree.tree_map_only(Tensor, lambda tensor: tensor.to(like.device), (inputs, targets))
    checks = DeferredChecks()
    check_finite(inputs, checks)
    checks.finish()
    logits = gather_logits(lambda some: checked_logits(model, some, "samples"), inputs, batch_size)
    if logits.dim() != 2 or logits.shape[1] < 2:
        raise ValueError(f"`model` must return logits [N, C] of two or more classes, got shape {tuple(logits.shape)}")
    if not bool(torch.isfinite(logits).all()):
        raise ValueError("`model` must give finite logits on `samples`, got NaN or infinity")
    if targets is not None and (int(targets.min()) < 0 or int(targets.max()) >= logits.shape[1]):
        raise ValueError(f"targets of `samples` must lie in [0, {logits.shape[1]})")
    return GivenSamples(inputs, targets, logits.argmax(1), logits.shape[1])


def _pair_of(samples: object) -> tuple[Inputs, Tensor | None]:
    """Return inputs and targets of all samples, whatever form they come in."""
    if isinstance(samples, (tuple, list)) and len(samples) == 2 and isinstance(samples[1], Tensor | None):
        inputs, targets = samples
        if targets is None or (targets.dim() == 1 and targets.dtype == torch.int64):
            return plain(inputs), targets
        got = f"{targets.dtype} {tuple(targets.shape)}" if isinstance(targets, Tensor) else type(targets).__name__
        raise TypeError(f"the targets of `samples` must be torch.int64 [N], or None, got {got}")
    if isinstance(samples, Tensor):
        raise TypeError("`samples` must be (inputs, targets), or (inputs, None) without labels, got Tensor")
    return joined(samples, "samples")  # type: ignore[arg-type]
