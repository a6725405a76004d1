"""Where the samples of a batch are inside an activation.

The Fisher of a parameter needs to know which entries of an activation belong to which sample. They are not always
along dimension 0: ``nn.MultiheadAttention`` computes on [T, N, E], windowed attention on [N * windows, T, E], many
language models on [N * T, E]. A `Layout` says where the samples are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Layout", "LayoutState", "Rows", "Unknown", "rows_by_sample", "samples_first"]


class Layout(NamedTuple):
    """Samples lie along ``dim``: entry i of that dimension belongs to sample ``i // inner % N``."""

    dim: int
    inner: int = 1


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows along dimension 0 belong to samples in no order, as tokens do that are sorted by where they go.

    Attributes:
        samples: The sample of each row, int64 [S].
    """

    samples: Tensor

    def of(self, start: int, end: int) -> Rows:
        """Return what is known of some rows in a row."""
        return Rows(self.samples[start:end])


@dataclass(frozen=True)
class Unknown:
    """Nobody knows where the samples are, for this ``reason``."""

    reason: str


# What is known of a tensor: where its samples are, that nobody knows, or None: it is the same for every sample.
LayoutState = Layout | Rows | Unknown | None


def samples_first(tensor: Tensor, layout: Layout, samples: int) -> Tensor:
    """View a tensor as [N, other entries of its sample dimension, other dimensions …]."""
    if layout.dim == 0 and layout.inner == 1 and tensor.shape[0] == samples:
        return tensor.unsqueeze(1)
    split = tensor.unflatten(layout.dim, (-1, samples, layout.inner))
    moved: Tensor = split.movedim((layout.dim + 1, layout.dim, layout.dim + 2), (0, 1, 2))
    return moved.flatten(1, 2)


def rows_by_sample(tensor: Tensor, layout: Layout | Rows, samples: int) -> Tensor:
    """Return activations whose last dimension is that of the features as [N, T, features].

    A view where they have a layout. `Rows`, [S, features], are sorted into a tensor whose T is the largest number of
    rows of a sample; where a sample has fewer, zeros follow, which add nothing to any sum.
    """
    if isinstance(layout, Rows):
        return _sorted_rows(tensor, layout.samples, samples)
    if layout.dim == 0 and layout.inner == 1 and tensor.dim() == 3 and tensor.shape[0] == samples:
        return tensor  # nothing to rearrange
    rows = samples_first(tensor, layout, samples)
    return rows.reshape(samples, math.prod(rows.shape[1:-1]), rows.shape[-1])


def _sorted_rows(tensor: Tensor, owners: Tensor, samples: int) -> Tensor:
    counts = owners.bincount(minlength=samples)
    order = owners.argsort(stable=True)
    place = torch.arange(len(owners), device=owners.device) - (counts.cumsum(0) - counts)[owners[order]]
    found = tensor.new_zeros(samples, int(counts.max()), tensor.shape[-1])
    found[owners[order], place] = tensor[order]
    return found
