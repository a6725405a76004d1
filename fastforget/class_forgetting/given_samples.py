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
from fastforget.classifier.running import gather_logits

__all__ = ["GivenSamples", "read_samples"]


@dataclass(frozen=True, eq=False)
class GivenSamples:
    """Some samples, where the model is.

    Attributes:
        inputs: What the model takes, leaves [N, ...].
        targets: Their classes, int64 [N]; None where they are not known.
        classes: C, the number of classes of the model.
    """

    inputs: Inputs
    targets: Tensor | None
    classes: int

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
        keep = self._are_of(classes)
        return replace(self, inputs=self._where(keep), targets=self.targets[keep])

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

    def _where(self, keep: Tensor) -> Inputs:
        return transform(lambda leaf: leaf[keep], self.inputs)


def read_samples(samples: object, model: nn.Module, like: Tensor, batch_size: int | None) -> GivenSamples:
    """Check the argument ``samples`` of `one_shot` and move it to the model's device.

    Args:
        samples: (inputs, targets), or (inputs, None).
        model: The eager module, which is run on them.
        like: One of its parameters.
        batch_size: How many samples are run at a time; None for all.

    Returns:
        The samples.

    Raises:
        TypeError: They are something else.
        ValueError: They do not fit each other or the model, or hold NaN or infinity.
    """
    if not isinstance(samples, (tuple, list)) or len(samples) != 2:
        raise TypeError(
            f"`samples` must be (inputs, targets), or (inputs, None) without labels, got {type(samples).__name__}"
        )
    inputs, targets = samples
    if targets is not None and (not isinstance(targets, Tensor) or targets.dim() != 1 or targets.dtype != torch.int64):
        raise TypeError("the targets of `samples` must be torch.int64 [N], or None")
    inputs = plain(inputs)
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
    return GivenSamples(inputs, targets, logits.shape[1])
