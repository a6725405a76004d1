"""Classes to forget of which no sample remains: at the end they get the output rows of classes never seen."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from heapq import heappush, heapreplace

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fastforget.classifier.data_forms import Batch
from fastforget.classifier.devices import upload
from fastforget.classifier.inputs import Inputs
from fastforget.classifier.losses import depth_beyond_boundary
from fastforget.classifier.output_layer import OutputLayer, look_for_output_layer
from fastforget.functional.output_row import Examined, unseen_rows_of_layer

__all__ = ["DrawnSamples", "ExcludedClasses"]

_MOST = 256  # samples that a row is computed from: their means are good to a sixteenth of how far samples differ
_FINDING = 8  # samples on which the layer is looked for


@dataclass(frozen=True, eq=False)
class DrawnSamples:
    """A few of the samples in batches, drawn at random, all of them alike, in one pass.

    Attributes:
        classes: Those of all samples, drawn or not.
        inputs: At most 256 samples, in the order in which they came; None where there are none.
        size: The size of the first batch: so many can be run at a time.
    """

    classes: frozenset[int]
    inputs: Inputs | None
    size: int

    @classmethod
    def draw(cls, batches: Iterable[Batch], seed: int, without: Collection[int] = ()) -> DrawnSamples:
        """Go through batches once.

        Args:
            batches: (inputs, targets), checked.
            seed: Of the choice, which is independent of the global random state.
            without: Classes whose samples do not count.

        Returns:
            The samples, copied: batches are not kept in memory.
        """
        generator = torch.Generator().manual_seed(seed)
        classes, size, place = set[int](), 0, 0
        kept: list[tuple[float, int, Inputs]] = []  # a heap: those with the smallest keys stay
        for inputs, targets in batches:
            size = size or len(targets)
            keys = torch.rand(len(targets), generator=generator, dtype=torch.float64, device="cpu").tolist()
            for row, (label, key) in enumerate(zip(targets.tolist(), keys, strict=True)):
                if label in without:
                    continue
                classes.add(label)
                if len(kept) < _MOST:
                    heappush(kept, (-key, place + row, _one(inputs, row)))
                elif -key > kept[0][0]:
                    heapreplace(kept, (-key, place + row, _one(inputs, row)))
            place += len(targets)
        found = [one for _, _, one in sorted(kept, key=lambda entry: entry[1])]
        return cls(frozenset(classes), _joined(found) if found else None, size)


@dataclass(frozen=True, eq=False)
class ExcludedClasses:
    """Classes to forget of which no sample remains.

    Attributes:
        classes: In order; often none.
        own: Samples of these classes.
        others: Samples of what remains.
    """

    classes: tuple[int, ...]
    own: DrawnSamples
    others: DrawnSamples

    @classmethod
    def find(cls, forget: Iterable[Batch], others: DrawnSamples, seed: int) -> ExcludedClasses:
        """Find them among the classes of samples to forget.

        Args:
            forget: Batches to forget; gone through once.
            others: Drawn from all that remain.
            seed: Of the draw.

        Returns:
            The classes, with samples of theirs.
        """
        own = DrawnSamples.draw(forget, seed, without=others.classes)
        return cls(tuple(sorted(own.classes)), own, others)

    def look_for_layer(self, model: nn.Module, moving: Collection[str]) -> OutputLayer | str:
        """Return the output layer, or why its rows cannot be set, as words that follow a "because".

        Args:
            model: The eager module, in eval mode.
            moving: Names of the parameters that may move.
        """
        assert self.others.inputs is not None  # noqa: S101 - something remains, or the loader was refused
        some = pytree.tree_map_only(Tensor, lambda leaf: leaf[:_FINDING], self.others.inputs)
        layer = look_for_output_layer(model, some)
        if isinstance(layer, OutputLayer) and layer.weight not in moving:
            return f"`{layer.weight}` is not among the parameters that may move"
        return layer

    def set_rows(
        self, model: nn.Module, layer: OutputLayer, moving: Mapping[str, Tensor], depth: float | None
    ) -> float:
        """Give the classes the output rows of classes that were never seen, see `unseen_rows`, in place.

        Args:
            model: The eager module, in eval mode.
            layer: Its output layer.
            moving: The parameters that may move, by name; the weight of the layer among them.
            depth: How far beyond the decision boundary samples of the classes shall end on average, nats of log-odds;
                None for `usual_depth` of the remaining classes.

        Returns:
            That depth.
        """
        weight, bias = moving[layer.weight], None if layer.bias is None else moving.get(layer.bias)
        excluded = set(self.classes)
        chosen = upload(self.classes, weight.device).long()
        remaining = upload([label for label in range(len(weight)) if label not in excluded], weight.device).long()
        others, own = (
            Examined(*layer.examine(model, drawn.inputs, None, self.others.size))
            for drawn in (self.others, self.own)
            if drawn.inputs is not None
        )
        found = unseen_rows_of_layer(
            weight.detach(),
            None if bias is None else bias.detach(),
            others,
            own,
            classes=chosen,
            remaining=remaining,
            depth=depth,
            scale=layer.scale,
        )
        with torch.no_grad():
            weight[chosen] = found.weight.view(len(chosen), *weight.shape[1:]).to(weight.dtype)
            if bias is not None and found.bias is not None:
                bias[chosen] = found.bias.to(bias.dtype)
        return float(found.depth)

    def depth(self, model: nn.Module, layer: OutputLayer) -> float:
        """Return how far beyond the decision boundary samples of the classes are on average, nats of log-odds."""
        assert self.own.inputs is not None  # noqa: S101 - a class is excluded if there is a sample of it to forget
        _, logits = layer.examine(model, self.own.inputs, None, self.others.size)
        return float(depth_beyond_boundary(logits, upload(self.classes, logits.device).long()))


def _one(inputs: Inputs, row: int) -> Inputs:
    """Return a copy of one sample, with a first dimension of one."""
    one: Inputs = pytree.tree_map_only(Tensor, lambda leaf: leaf[row : row + 1].clone(), inputs)
    return one


def _joined(parts: list[Inputs]) -> Inputs:
    """Return samples as one batch; what is no tensor is the same for all."""
    joined: Inputs = pytree.tree_map(
        lambda *leaves: torch.cat(leaves) if isinstance(leaves[0], Tensor) else leaves[0], *parts
    )
    return joined
