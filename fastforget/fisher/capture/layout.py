"""Where the samples of a batch are inside an activation.

The Fisher of a parameter needs to know which entries of an activation belong to which sample. They are not always
along dimension 0: ``nn.MultiheadAttention`` computes on [T, N, E], windowed attention on [N * windows, T, E], many
language models on [N * T, E]. A `Layout` says where the samples are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

__all__ = ["Layout", "LayoutState", "Unknown", "rows_by_sample", "samples_first"]


class Layout(NamedTuple):
    """Samples lie along ``dim``: entry i of that dimension belongs to sample ``i // inner % N``."""

    dim: int
    inner: int = 1


@dataclass(frozen=True)
class Unknown:
    """Nobody knows where the samples are, for this ``reason``."""

    reason: str


# What is known of a tensor: where its samples are, that nobody knows, or None: it is the same for every sample.
LayoutState = Layout | Unknown | None


def samples_first(tensor: Tensor, layout: Layout, samples: int) -> Tensor:
    """View a tensor as [N, other entries of its sample dimension, other dimensions …]."""
    if layout.dim == 0 and layout.inner == 1 and tensor.shape[0] == samples:
        return tensor.unsqueeze(1)
    split = tensor.unflatten(layout.dim, (-1, samples, layout.inner))
    moved: Tensor = split.movedim((layout.dim + 1, layout.dim, layout.dim + 2), (0, 1, 2))
    return moved.flatten(1, 2)


def rows_by_sample(tensor: Tensor, layout: Layout, samples: int) -> Tensor:
    """View activations whose last dimension is that of the features as [N, T, features]."""
    if layout.dim == 0 and layout.inner == 1 and tensor.dim() == 3 and tensor.shape[0] == samples:
        return tensor  # nothing to rearrange
    rows = samples_first(tensor, layout, samples)
    return rows.reshape(samples, math.prod(rows.shape[1:-1]), rows.shape[-1])
