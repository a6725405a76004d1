"""A copy of a model's parameters on which a step is tried before anything is written to the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from fastforget import ops
from fastforget.classifier.inputs import Inputs
from fastforget.classifier.output_layer import Examination, OutputLayer
from fastforget.classifier.running import IsolatedModel, gather_logits, logits_of
from fastforget.edits.edit import Edit

__all__ = ["DenseStage", "SparseStage", "Stage", "Standstill", "Step"]


@dataclass
class Stage:
    """Parameters that can be moved along one direction, as far as wanted, and back.

    A kind of stage says what moves (`place` and `changes`), and may say how the model is run (`run`).

    Attributes:
        model: The eager module, never changed here.
        parameters: Contiguous copies by name.
        batch_size: How many samples are run at a time; None for all.
    """

    model: nn.Module
    parameters: dict[str, Tensor]
    batch_size: int | None = None
    _outputs: list[tuple[Inputs, Tensor]] = field(default_factory=list, init=False)
    _examined: list[tuple[Inputs, Examination]] = field(default_factory=list, init=False)
    _classes: int | None = field(default=None, init=False)
    # Whether the model can be run with the staged parameters alone.
    _can_examine: ClassVar[bool] = True
    _overlays: dict[str, tuple[Tensor, Callable[[Tensor], None]]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        """Find every name of the parameters."""
        self._isolated = IsolatedModel(self.model)
        tied = self._isolated.parameters
        names = {id(parameter): name for name, parameter in reversed(tied.items())}  # the first of each
        self._values = {
            name: self.parameters[names[id(p)]] for name, p in tied.items() if names[id(p)] in self.parameters
        }

    def outputs(self, inputs: Inputs, *, examine: bool = False) -> Tensor:
        """Return the logits of the staged model on some inputs; they are remembered until something moves.

        Where the inputs were examined without overlays, and these change nothing but the output layer, the logits
        follow from the features before it.

        Args:
            inputs: The samples, leaves [N, ...].
            examine: Examine them on the way where that can be done: their output layer will be asked for next.

        Returns:
            The logits, [N, C].
        """
        known = next((logits for known, logits in self._outputs if known is inputs), None)
        if known is not None:
            return known
        if examine and self._can_examine:
            self.examine(inputs)
        examined = next((found for known, found in self._examined if known is inputs), None)
        logits = None if examined is None else self._through_output_layer(examined)
        if logits is None:
            logits = gather_logits(self.run, inputs, self.batch_size)
        self._classes = logits.shape[-1]
        self._outputs.append((inputs, logits))
        return logits

    def examine(self, inputs: Inputs, classes: int | None = None) -> Examination:
        """Run the staged model on some inputs with an eye on its output layer; remember it until the step changes.

        Args:
            inputs: The samples, leaves [N, ...].
            classes: The number of classes, where it is known.

        Returns:
            What the run says.
        """
        self._classes = self._classes or classes
        known = next((found for known, found in self._examined if known is inputs), None)
        if known is not None and not self._overlays:
            return known
        found = Examination.of(self._isolated, inputs, self._values, classes=self._classes, batch_size=self.batch_size)
        if not self._overlays:
            self._examined.append((inputs, found))
        return found

    def _through_output_layer(self, examined: Examination) -> Tensor | None:
        """Return the logits of examined samples with what `overlay` did; None where that was not to the layer alone."""
        if not self._overlays:
            return examined.logits
        layer = examined.layer_if_known
        if not isinstance(layer, OutputLayer) or not self._overlays.keys() <= {layer.weight, layer.bias}:
            return None
        logits = examined.logits.double()
        for name, (values, _) in self._overlays.items():
            change = self.parameters[name].double() - values.double()
            moved = examined.features.double() @ change.flatten(1).T if name == layer.weight else layer.scale * change
            logits = logits + moved
        return logits.to(examined.logits.dtype)

    @property
    def values(self) -> Mapping[str, Tensor]:
        """The staged parameters by every name that they have in the model."""
        return self._values

    def move(self, length: float) -> None:
        """Make the staged parameters ``original + length * direction``, with what `overlay` does to them."""
        self._outputs, self._examined = [], []
        self._take_overlays_off()
        self.place(length)
        self._put_overlays_on()

    def overlay(self, name: str, change: Callable[[Tensor], None] | None) -> None:
        """Change a parameter beyond what this step and every later one makes of it.

        Args:
            name: The parameter.
            change: Changes it in place; replaces an earlier one. None for none.
        """
        self._outputs = []
        for _, examined in self._examined:
            examined.settle()
        self._take_overlays_off()
        self._overlays.pop(name, None)
        if change is not None:
            self._overlays[name] = self.parameters[name].clone(), change
        self._put_overlays_on()

    @contextmanager
    def step_alone(self) -> Iterator[None]:
        """Stage the step without what `overlay` does, for a while."""
        outputs, self._outputs = self._outputs, []
        overlays, self._overlays = self._overlays, {}
        for name, (values, _) in overlays.items():
            self.parameters[name].copy_(values)
        try:
            yield
        finally:
            self._overlays = overlays
            self._put_overlays_on()
            self._outputs = outputs

    def edits(self) -> dict[str, Edit]:
        """Return the difference to the model."""
        edits = self.changes()
        for name in self._overlays:
            original = self.original(name)
            old, new = (tensor.detach().reshape(-1) for tensor in (original, self.parameters[name]))
            (changed,) = (old != new).nonzero(as_tuple=True)
            edits.pop(name, None)
            if len(changed):
                narrow = torch.int32 if len(old) < 2**31 else torch.int64
                edits[name] = Edit.selected(tuple(original.shape), changed.to(narrow), old[changed], new[changed])
        return edits

    def original(self, name: str) -> Tensor:
        """Return a parameter as it was before any step."""
        return self.model.get_parameter(name).detach()

    def run(self, inputs: Inputs) -> Tensor:
        """Run the staged model on inputs that fit at once; return the logits."""
        return logits_of(self._isolated.run(inputs, self._values))

    def place(self, length: float) -> None:
        """Write ``original + length * direction`` into the staged parameters."""
        raise NotImplementedError

    def changes(self) -> dict[str, Edit]:
        """Return what the last `place` changed, by parameter."""
        raise NotImplementedError

    def _take_overlays_off(self) -> None:
        """Put back what overlays changed: a step need not touch these elements."""
        for name, (values, _) in self._overlays.items():
            self.parameters[name].copy_(values)

    def _put_overlays_on(self) -> None:
        for name, (_, change) in self._overlays.items():
            parameter = self.parameters[name]
            self._overlays[name] = parameter.clone(), change
            change(parameter)


@dataclass(frozen=True)
class Step:
    """A step that was taken on a stage.

    Attributes:
        stage: The parameters with the step taken.
        length: How far it goes along the stage's direction.
        loss_scale: What the loss behind the direction was multiplied by.
    """

    stage: Stage
    length: float
    loss_scale: float = 1.0

    @property
    def alpha(self) -> float:
        """The length along the direction of the loss itself."""
        return self.length / self.loss_scale

    def retake(self, factor: float) -> None:
        """Take the same step again, scaled by a factor."""
        self.stage.move(self.length * factor)


class SparseStage(Stage):
    """A step on some elements."""

    def __init__(
        self,
        model: nn.Module,
        originals: Mapping[str, Tensor],
        moving: Iterable[str],
        indices: Tensor,
        counts: Tensor,
        direction: Tensor,
        sizes: list[int] | None = None,
        batch_size: int | None = None,
    ) -> None:
        """Stage a step of length 0 along ``direction`` [k] on the elements at ``indices``, see `ops.select_indices`.

        Args:
            model: The eager module.
            originals: The parameters by name.
            moving: Those that the step is on.
            indices: Which elements of these.
            counts: How many of them are in each parameter.
            direction: The direction on them.
            sizes: The counts, where the host has read them.
            batch_size: How many samples are run at a time; None for all.
        """
        super().__init__(model, _copies(originals), batch_size)
        self._moving = {name: self.parameters[name] for name in moving}
        self._targets = list(self._moving.values())
        self._indices, self._counts, self._direction = indices, counts, direction
        self._sizes = counts.tolist() if sizes is None else sizes
        parts = zip(self._targets, indices.split(self._sizes), self._sizes, strict=True)
        self._old = torch.cat([target.view(-1)[places] for target, places, size in parts if size])
        self._new = self._old

    def place(self, length: float) -> None:
        """Write the selected elements: summed in the type of the direction, rounded once."""
        self._new = (self._old.to(self._direction.dtype) + length * self._direction).to(self._old.dtype)
        ops.perturb_write(self._targets, self._indices, self._counts, self._new)

    def changes(self) -> dict[str, Edit]:
        """Return the selected elements with their values before and after."""
        parts = (t.split(self._sizes) for t in (self._indices, self._old, self._new))
        edits: dict[str, Edit] = {}
        for (name, parameter), indices, old, new in zip(self._moving.items(), *parts, strict=True):
            if len(new):
                narrow = torch.int32 if parameter.numel() < 2**31 else torch.int64
                edits[name] = Edit.selected(tuple(parameter.shape), indices.to(narrow), old.clone(), new.clone())
        return edits


class DenseStage(Stage):
    """A step on every element."""

    def __init__(
        self,
        model: nn.Module,
        originals: Mapping[str, Tensor],
        directions: Sequence[Tensor],
        batch_size: int | None = None,
    ) -> None:
        """Stage a step of length 0 along ``directions``; ``batch_size`` samples are run at a time, None for all."""
        super().__init__(model, _copies(originals), batch_size)
        self._originals = [p.detach() for p in originals.values()]
        self._directions = directions

    def place(self, length: float) -> None:
        """Write every element."""
        parts = zip(self.parameters.values(), self._originals, self._directions, strict=True)
        for staged, original, direction in parts:
            staged.copy_(original.to(direction.dtype) + length * direction)

    def changes(self) -> dict[str, Edit]:
        """Return every element with its value before and after."""
        pairs = zip(self.parameters.items(), self._originals, strict=True)
        return {
            name: Edit(tuple(new.shape), None, old.reshape(-1).clone(), new.reshape(-1).clone())
            for (name, new), old in pairs
        }


class Standstill(Stage):
    """No step at all."""

    def __init__(self, model: nn.Module, originals: Mapping[str, Tensor], batch_size: int | None = None) -> None:
        """Stage the parameters as they are; ``batch_size`` samples are run at a time, None for all."""
        super().__init__(model, _copies(originals), batch_size)

    def place(self, length: float) -> None:
        """Leave every element."""

    def changes(self) -> dict[str, Edit]:
        """Return nothing."""
        return {}


def _copies(originals: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous copies. On a device, tensors share a launch."""
    near = {name: p.detach() for name, p in originals.items()}
    copies = {name: torch.empty_like(p, memory_format=torch.contiguous_format) for name, p in near.items()}
    torch._foreach_copy_(list(copies.values()), list(near.values()))
    return copies
