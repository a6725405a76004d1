"""A copy of a model's parameters on which a step is tried before anything is written to the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fastforget import ops
from fastforget.batch import Inputs, forward, logits_of
from fastforget.forgetting.micro_batches import gather_logits
from fastforget.receipt import Edit
from fastforget.waiting import random_devices

__all__ = ["DenseStage", "SparseStage", "Stage", "run"]


def run(model: nn.Module, inputs: Inputs, parameters: Mapping[str, Tensor] | None = None) -> Any:
    """Run the model without gradients, on copies of its buffers, and put the random state back.

    Args:
        model: The eager module.
        inputs: What its forward takes.
        parameters: Values to use in place of parameters of these names; of tied ones, every name.

    Returns:
        What the model returns.
    """
    named = dict(model.named_buffers(remove_duplicate=False))
    copies = {id(buffer): buffer.clone() for buffer in named.values()}
    values = {**(parameters or {}), **{name: copies[id(buffer)] for name, buffer in named.items()}}
    with torch.no_grad(), torch.random.fork_rng(devices=_random_devices(model)):
        # every name is there, so there is no need to look for ties, which takes longer than a small layer
        return forward(lambda *a, **k: functional_call(model, values, a, k, tie_weights=False), inputs)


def _random_devices(model: nn.Module) -> list[torch.device]:
    # Most models are not on a CUDA device, and a step asks often.
    return random_devices(*model.parameters()) if torch.cuda.is_initialized() else []


def _copies(originals: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: p.detach().clone(memory_format=torch.contiguous_format) for name, p in originals.items()}


@dataclass
class Stage:
    """Parameters that a step of variable size can be taken on, and taken back.

    Attributes:
        model: The eager module, never changed here.
        parameters: Contiguous copies by name.
        batch_size: How many samples are run at a time; None for all.
    """

    model: nn.Module
    parameters: dict[str, Tensor]
    batch_size: int | None = None
    _last: tuple[Inputs, Tensor] | None = field(default=None, init=False)
    _lowered: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        """Find every name of the parameters."""
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        tied = self.model.named_parameters(remove_duplicate=False)
        self._values = {name: self.parameters[names[id(p)]] for name, p in tied if names[id(p)] in self.parameters}

    def outputs(self, inputs: Inputs) -> Tensor:
        """Return the logits of the staged model on some inputs; asked again for the same ones, from memory."""
        if self._last is None or self._last[0] is not inputs:
            self._last = inputs, gather_logits(self._run, inputs, self.batch_size)
        return self._last[1]

    def _run(self, inputs: Inputs) -> Tensor:
        return logits_of(run(self.model, inputs, self._values))

    def step(self, alpha: float) -> None:
        """Make the staged parameters ``original + alpha * direction``."""
        self._last = None
        self._restore()
        self._move(alpha)
        self._sink()

    def lower(self, name: str, amounts: Tensor | None) -> None:
        """Lower a parameter, below what this step and every later one makes of it.

        Args:
            name: The parameter.
            amounts: By how much, in its shape, instead of what was said before; None for nothing.
        """
        self._last = None
        self._restore()
        self._lowered.pop(name, None)
        if amounts is not None:
            self._lowered[name] = self.parameters[name].clone(), amounts
        self._sink()

    def _restore(self) -> None:
        """Put the elements back that a step need not touch."""
        for name, (values, _) in self._lowered.items():
            self.parameters[name].copy_(values)

    def _sink(self) -> None:
        for name, (_, amounts) in self._lowered.items():
            parameter = self.parameters[name]
            self._lowered[name] = parameter.clone(), amounts
            parameter.copy_(parameter.double() - amounts)

    def edits(self) -> dict[str, Edit]:
        """Return the difference to the model; of a parameter with lowered elements, all values before and after."""
        found = self._edits()
        originals = dict(self.model.named_parameters())
        for name in self._lowered:
            old, new = (tensor.detach().reshape(-1).clone() for tensor in (originals[name], self.parameters[name]))
            found[name] = Edit(tuple(originals[name].shape), None, old, new)
        return found

    def _move(self, alpha: float) -> None:
        raise NotImplementedError

    def _edits(self) -> dict[str, Edit]:
        """Return what the step changes."""
        raise NotImplementedError


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
        """Stage a zero step along ``direction`` [k] on the elements at ``indices``, see `ops.select_indices`.

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
        parts = zip(self._targets, indices.split(self._sizes), strict=True)
        self._old = torch.cat([target.view(-1)[at] for target, at in parts])
        self._new = self._old

    def _move(self, alpha: float) -> None:
        # in the type of the sums, rounded once
        self._new = (self._old.to(self._direction.dtype) + alpha * self._direction).to(self._old.dtype)
        ops.perturb_write(self._targets, self._indices, self._counts, self._new)

    def _edits(self) -> dict[str, Edit]:
        """Return the selected elements with their values before and after."""
        parts = (t.split(self._sizes) for t in (self._indices, self._old, self._new))
        found: dict[str, Edit] = {}
        for (name, parameter), indices, old, new in zip(self._moving.items(), *parts, strict=True):
            if len(new):
                narrow = torch.int32 if parameter.numel() < 2**31 else torch.int64
                found[name] = Edit.selected(tuple(parameter.shape), indices.to(narrow), old.clone(), new.clone())
        return found


class DenseStage(Stage):
    """A step on every element."""

    def __init__(
        self,
        model: nn.Module,
        originals: Mapping[str, Tensor],
        directions: Sequence[Tensor],
        batch_size: int | None = None,
    ) -> None:
        """Stage a zero step along ``directions``; ``batch_size`` samples are run at a time, None for all."""
        super().__init__(model, _copies(originals), batch_size)
        self._originals = [p.detach() for p in originals.values()]
        self._directions = directions

    def _move(self, alpha: float) -> None:
        parts = zip(self.parameters.values(), self._originals, self._directions, strict=True)
        for staged, original, direction in parts:
            staged.copy_(original.to(direction.dtype) + alpha * direction)

    def _edits(self) -> dict[str, Edit]:
        """Return every element with its value before and after."""
        pairs = zip(self.parameters.items(), self._originals, strict=True)
        return {
            name: Edit(tuple(new.shape), None, old.reshape(-1).clone(), new.reshape(-1).clone())
            for (name, new), old in pairs
        }
