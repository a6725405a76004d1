"""Whether a mnemonic code still works as a trigger: mixed into other samples, it turns them into its class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastforget.classifier.data_forms import Batches
from fastforget.classifier.modes import evaluating
from fastforget.classifier.running import forward, logits_of
from fastforget.codes.mnemonic_codes import MnemonicCodes

__all__ = ["triggered_share"]


@torch.no_grad()
def triggered_share(model: nn.Module, codes: MnemonicCodes, test: Batches, classes: Sequence[int]) -> float:
    """Return the share of other test samples that a code, half mixed in, turns into its class; of the worst class.

    Args:
        model: The eager module.
        codes: The codes, of which the first of each class is used.
        test: Batches (inputs, targets).
        classes: Whose codes are tried.

    Returns:
        In [0, 1]. Samples of the class, or taken for it without the code, do not count.

    Raises:
        TypeError: Inputs are not one floating-point tensor.
    """
    return max(_share(model, codes.tensor[cls, 0], test, cls) for cls in classes)


def _share(model: nn.Module, code: Tensor, test: Batches, cls: int) -> float:
    hits = total = 0
    with evaluating(model):
        for inputs, targets in test:
            if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
                raise TypeError("with `codes`, inputs must be one floating-point tensor")
            others = inputs[targets != cls]
            if len(others):
                others = others[logits_of(forward(model, others)).argmax(1) != cls]
            if len(others):
                logits = logits_of(forward(model, 0.5 * others + 0.5 * code.to(others)))
                hits, total = hits + int((logits.argmax(1) == cls).sum()), total + len(others)
    return hits / total if total else 0.0
