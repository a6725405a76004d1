"""A few samples of each class: what an attacker would need who looks for what is left of a class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fastforget.classifier.data_forms import Batches

__all__ = ["after_first_of_each", "first_of_each", "samples_of"]

Part = tuple[Any, Tensor]


def first_of_each(batches: Iterable[Part], count: int) -> list[Part]:
    """Return the first ``count`` samples of each class, in as few batches as their shapes allow.

    Args:
        batches: Batches (inputs, targets), gone through once.
        count: How many of each class; fewer where there are not as many.

    Returns:
        Batches (inputs, targets). Texts of different lengths stay in batches of their own.
    """
    return _chosen(batches, lambda place: place < count)


def after_first_of_each(batches: Iterable[Part], count: int) -> list[Part]:
    """Return all but the first ``count`` samples of each class, see `first_of_each`."""
    return _chosen(batches, lambda place: place >= count)


def samples_of(batches: Batches, classes: Sequence[int]) -> list[Part]:
    """Return the samples of some classes, batch by batch."""
    parts = []
    for inputs, targets in batches:
        wanted = torch.isin(targets, torch.tensor(list(classes), device=targets.device))
        if bool(wanted.any()):
            parts.append(_rows((inputs, targets), wanted.nonzero().squeeze(1)))
    return parts


def _chosen(batches: Iterable[Part], wanted: Callable[[int], bool]) -> list[Part]:
    """Return the samples whose place among those of their class is wanted."""
    seen = Counter[int]()
    parts: list[Part] = []
    for inputs, targets in batches:
        rows = []
        for row, target in enumerate(targets.tolist()):
            if wanted(seen[target]):
                rows.append(row)
            seen[target] += 1
        if rows:
            parts.append(_rows((inputs, targets), targets.new_tensor(rows)))
    return _merged(parts)


def _rows(part: Part, rows: Tensor) -> Part:
    chosen: Part = pytree.tree_map_only(Tensor, lambda tensor: tensor[rows.to(tensor.device)], part)
    return chosen


def _merged(parts: Sequence[Part]) -> list[Part]:
    """Join batches whose samples have the same shapes, so that few of them are run."""
    alike: dict[Any, list[Part]] = {}
    for part in parts:
        leaves, structure = pytree.tree_flatten(part)
        kinds = [(leaf.shape[1:], leaf.dtype) if isinstance(leaf, Tensor) else repr(leaf) for leaf in leaves]
        alike.setdefault((str(kinds), str(structure)), []).append(part)
    return [
        pytree.tree_map(lambda *leaves: torch.cat(leaves) if isinstance(leaves[0], Tensor) else leaves[0], *group)
        for group in alike.values()
    ]
