"""Running a model: on inputs of any structure, in micro-batches, without leaving a trace."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from fastforget.classifier.devices import random_devices
from fastforget.classifier.inputs import Inputs, split_samples, tensors_of
from fastforget.classifier.kept_values import KeptValues
from fastforget.classifier.modes import SingleSampleBackward
from fastforget.classifier.offloading import offloaded_names

__all__ = ["IsolatedModel", "call_with", "forward", "gather_logits", "logits_of", "run_isolated"]


def forward(model: Callable[..., Any], inputs: Inputs) -> Any:
    """Call ``model(inputs)``, ``model(*inputs)`` or ``model(**inputs)``; also of one sample, the backward is right."""
    first = next(iter(tensors_of(inputs)), None)
    if torch.is_grad_enabled() and first is not None and first.shape[:1] == (1,):
        with SingleSampleBackward():
            return _call(model, inputs)
    return _call(model, inputs)


def _call(model: Callable[..., Any], inputs: Inputs) -> Any:
    if isinstance(inputs, Tensor):
        return model(inputs)
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs)


def logits_of(outputs: Any) -> Tensor:
    """Return the logits among what a model returned, [N, C] for a classifier.

    Raises:
        TypeError: There are none.
    """
    logits = outputs if isinstance(outputs, Tensor) else getattr(outputs, "logits", None)
    if not isinstance(logits, Tensor):
        raise TypeError(f"`model` must return logits or an object with `.logits`, got {type(outputs).__name__}")
    return logits


def gather_logits(logits: Callable[[Inputs], Tensor], inputs: Inputs, batch_size: int | None) -> Tensor:
    """Return the logits of all samples, from runs of at most ``batch_size`` of them, in order.

    Args:
        logits: Runs some samples and returns their logits.
        inputs: All samples, leaves [N, ...].
        batch_size: None for all at once.

    Returns:
        The logits, [N, C].
    """
    samples = len(tensors_of(inputs)[0])
    if batch_size is None or batch_size >= samples:
        return logits(inputs)
    return torch.cat([logits(some) for some, _ in split_samples(inputs, None, samples, batch_size)])


def run_isolated(model: nn.Module, inputs: Inputs, parameters: Mapping[str, Tensor] | None = None) -> Any:
    """Run a model once as `IsolatedModel.run` does."""
    return IsolatedModel(model).run(inputs, parameters)


def call_with(model: nn.Module, values: Mapping[str, Tensor], inputs: Inputs) -> Any:
    """Run a model once as `IsolatedModel.call_with` does."""
    return IsolatedModel(model).call_with(values, inputs)


class IsolatedModel:
    """A model that runs with other parameters and buffers than its own, and is left as it was.

    Where these are is looked up once, for any number of runs: a step is tried many times, and on a small model to look
    takes longer than to run. Between the runs nobody may give the model other modules, parameters or buffers; values
    may change.

    Attributes:
        parameters: Those that are in the model, by all their names.
    """

    def __init__(self, model: nn.Module) -> None:
        """Look up where the parameters and buffers of an eager module are."""
        self._model = model
        self.parameters: dict[str, Tensor] = {}
        self._buffers: dict[str, Tensor] = {}
        # Where to put a tensor of a name. A module that has two names is given its tensors once: after a run the first
        # of two would be put back in place of its own.
        self._homes: dict[str, tuple[dict[str, Tensor | None], str]] = {}
        modules: dict[int, nn.Module] = {}
        elsewhere = offloaded_names(model)  # their hooks bring them for each forward, and want to find the model's own
        for path, module in model.named_modules(remove_duplicate=False):
            for kind, found in (("_parameters", self.parameters), ("_buffers", self._buffers)):
                tensors: dict[str, Tensor | None] = getattr(module, kind)
                for key, tensor in tensors.items():
                    name = f"{path}.{key}" if path else key
                    if tensor is not None and name not in elsewhere:
                        found[name] = tensor
                        if id(module) not in modules:
                            self._homes[name] = tensors, key
            modules[id(module)] = module
        self._kept = KeptValues(list(modules.values()))
        self._copies: dict[str, Tensor] | None = None

    def run(self, inputs: Inputs, parameters: Mapping[str, Tensor] | None = None) -> Any:
        """Run the model without gradients, and leave its buffers and the random state as they were.

        Args:
            inputs: What its forward takes.
            parameters: Values to use in place of parameters of these names; of tied ones, every name.

        Returns:
            What the model returns.
        """
        with torch.no_grad(), torch.random.fork_rng(devices=_random_devices(self._model)):
            return self.call_with({**(parameters or {}), **self._restored_copies()}, inputs)

    def call_with(self, values: Mapping[str, Tensor], inputs: Inputs) -> Any:
        """Run the model with other parameters and buffers; nothing that it keeps of its own ones is used, or changes.

        Args:
            values: What to use in place of parameters and buffers of these names; of tied ones, every name.
            inputs: What its forward takes.

        Returns:
            What the model returns.
        """
        replaced: list[tuple[dict[str, Tensor | None], str, Tensor | None]] = []
        with self._kept.hidden():
            try:
                for name, value in values.items():
                    home = self._homes.get(name)
                    if home is not None:
                        tensors, key = home
                        replaced.append((tensors, key, tensors[key]))
                        tensors[key] = value
                return forward(self._model, inputs)
            finally:
                for tensors, key, own in reversed(replaced):
                    tensors[key] = own

    def names_by_module(self, name: str) -> list[str]:
        """Return the first name of a parameter in each module that has it: one module may have several itself."""
        owners: dict[int, str] = {}
        for other, parameter in self.parameters.items():
            if parameter is self.parameters[name]:
                owners.setdefault(id(self._model.get_submodule(other.rpartition(".")[0])), other)
        return list(owners.values())

    def copied_buffers(self) -> dict[str, Tensor]:
        """Return a copy of every buffer by all its names; two names of one buffer share the copy."""
        copies = {id(buffer): torch.empty_like(buffer) for buffer in self._buffers.values()}
        self._copy_buffers(copies)
        return {name: copies[id(buffer)] for name, buffer in self._buffers.items()}

    def _copy_buffers(self, copies: Mapping[int, Tensor]) -> None:
        """Copy every buffer to the tensor of its identity: those of one type share a launch on a device."""
        for buffers in self._buffers_by_type:
            torch._foreach_copy_([copies[key] for key in buffers], list(buffers.values()))

    @cached_property
    def _buffers_by_type(self) -> list[dict[int, Tensor]]:
        """The buffers, without a graph, by identity."""
        groups: dict[tuple[torch.dtype, torch.device], dict[int, Tensor]] = {}
        for buffer in {id(buffer): buffer for buffer in self._buffers.values()}.values():
            groups.setdefault((buffer.dtype, buffer.device), {})[id(buffer)] = (
                buffer.detach() if buffer.requires_grad else buffer
            )
        return list(groups.values())

    def _restored_copies(self) -> dict[str, Tensor]:
        """Return copies of the buffers for a run that keeps no graph: the same ones each time, with the values as new.

        They are copied anew, since a forward may write to them in ways that leave no trace.
        """
        if self._copies is None:
            self._copies = self.copied_buffers()
        else:
            self._copy_buffers({id(buffer): self._copies[name] for name, buffer in self._buffers.items()})
        return self._copies


def _random_devices(model: nn.Module) -> list[torch.device]:
    # Asked for at every trial of a step, and most models are not on a CUDA device.
    return random_devices(*model.parameters()) if torch.cuda.is_initialized() else []
