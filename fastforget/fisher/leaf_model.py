"""The user's model, run on leaves in place of its parameters, so that nothing is left on it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fastforget.classifier.compilation import uncompiled
from fastforget.classifier.devices import random_devices
from fastforget.classifier.inputs import Inputs, tensors_of
from fastforget.classifier.kept_values import kept_beside
from fastforget.classifier.modes import recurrent_backward
from fastforget.classifier.running import IsolatedModel
from fastforget.fisher.capture import (
    CaptureMode,
    KeepActivations,
    Layout,
    LayoutsNeededError,
    Watch,
    keep_activations,
    trying_modules,
)

__all__ = ["LeafModel", "taking_gradients"]


@contextmanager
def taking_gradients(model: nn.Module) -> Iterator[None]:
    """Let a model run as it was written, with gradients on; afterwards everything is as the caller had set it.

    Random states are put back. What torch.compile has compiled runs uncompiled, because compiled code hides its calls.
    """
    random = torch.random.fork_rng(devices=random_devices(*model.parameters()))
    with torch.inference_mode(False), torch.enable_grad(), random, recurrent_backward(model), uncompiled(model):
        yield


class LeafModel:
    """A model that runs on leaves in place of the watched parameters, and on copies of its buffers.

    Attributes:
        leaves: The watched parameters by name, detached; they require gradients.
        others: The other parameters by name, detached.
    """

    def __init__(self, model: nn.Module, watched: Mapping[str, Tensor]) -> None:
        """Take the parameters of an eager module, of which some are watched."""
        self._model = model
        self._isolated = IsolatedModel(model)
        self.leaves: dict[str, Tensor] = {
            name: parameter.detach().requires_grad_() for name, parameter in watched.items()
        }
        first = {id(parameter): name for name, parameter in reversed(self._isolated.parameters.items())}
        everything = {name: p for name, p in self._isolated.parameters.items() if first[id(p)] == name}
        self.others: dict[str, Tensor] = {name: p.detach() for name, p in everything.items() if name not in watched}
        self._random_devices = random_devices(*self.leaves.values(), *self.others.values())
        # Every name of a parameter with its first name: then nobody needs to look for ties at each forward.
        self._first_names = {name: first[id(p)] for name, p in self._isolated.parameters.items()}

    def run(self, mode: KeepActivations, inputs: Inputs, leaves: Mapping[str, Tensor]) -> Any:
        """Run the model under a mode.

        Args:
            mode: Sees the functions that the model calls.
            inputs: What the model's forward takes.
            leaves: A tensor for each of ``self.leaves``.

        Returns:
            What the model returns.
        """
        given = {**self.others, **leaves}
        values = {name: given[first] for name, first in self._first_names.items()}
        values |= self._isolated.copied_buffers()
        with keep_activations(mode):
            return self._isolated.call_with(values, inputs)

    def check_unused(self, names: Iterable[str]) -> None:
        """Raise ValueError where a parameter seems to be unused because something is kept that was made of it."""
        for name in names:
            kept = kept_beside(self._model, name.rpartition(".")[0])
            if kept is not None:
                raise ValueError(
                    f"the model must use parameter `{name}`, but reads `{kept}` of the same module, it seems, which "
                    "may hold what was computed of it earlier: set that to None, or to what makes the module compute "
                    "it anew, or leave the parameter out of `parameters`"
                )

    def run_sample(self, inputs: Inputs, leaves: Mapping[str, Tensor]) -> Any:
        """Run the model on one sample, or some, that nobody watches; see `run`."""
        return self.run(KeepActivations(), _row_major(inputs), leaves)

    def run_watched(self, watch: Watch, inputs: Inputs, *, by_module: bool = False) -> Any:
        """Run the model on its leaves, and note in ``watch`` what happens.

        Args:
            watch: Watches the leaves, or none of them.
            inputs: What the model's forward takes, with the samples along dimension 0.
            by_module: Try modules that hide where the samples go inside, which runs them again and again.

        Returns:
            What the model returns.

        Raises:
            ValueError: The model draws random numbers.
        """
        if watch.samples == 1:
            inputs = _row_major(inputs)
        for tensor in tensors_of(inputs):
            watch.record(tensor, Layout(0))
        before = self._random_states()
        with trying_modules(watch) if by_module else nullcontext():
            outputs = self._run_following(watch, inputs)
        if not all(map(torch.equal, before, self._random_states())):
            raise ValueError(
                "the model must not draw random numbers (active dropout, for instance): the Fisher of a random network "
                "is not defined; call model.eval() first"
            )
        return outputs

    def _run_following(self, watch: Watch, inputs: Inputs) -> Any:
        """Run the model, and once more where somebody needs to know what nobody followed."""
        try:
            return self.run(CaptureMode(watch), inputs, self.leaves)
        except LayoutsNeededError:
            watch.follows = True
            for leaf in self.leaves.values():
                watch.record(leaf, None)
            return self.run(CaptureMode(watch), inputs, self.leaves)

    def _random_states(self) -> list[Tensor]:
        """The states of the generators that the model may draw from; all of them are on the host."""
        return [torch.get_rng_state(), *map(torch.cuda.get_rng_state, self._random_devices)]


def _row_major(inputs: Inputs) -> Inputs:
    """Contiguous inputs for a single sample: PyTorch 2.13 crashes then in backward of a channels-last group norm."""
    contiguous: Inputs = pytree.tree_map_only(Tensor, Tensor.contiguous, inputs)
    return contiguous
