"""Forwards and backwards of a sharded model, with gradients squared before they are summed over ranks."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils import _pytree as pytree
from torch.utils.hooks import RemovableHandle

from fastforget.classifier.inputs import Inputs
from fastforget.classifier.losses import Loss
from fastforget.classifier.running import forward
from fastforget.distributed.sharding import to_local
from fastforget.fisher.dtypes import sum_dtype
from fastforget.fisher.leaf_model import taking_gradients

__all__ = ["ShardedPasses"]


class ShardedPasses:
    """Passes of a sharded model over the samples of all ranks; every rank must run the same number of them.

    Attributes:
        losses: The loss of each sample of this rank, after `sum_squares`.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: dict[str, DTensor],
        inputs: Inputs,
        targets: Any,
        loss: Loss,
        ranks: int,
        *,
        samples: int,
    ) -> None:
        """Take the first ``samples`` of the inputs, which must hold at least one even if ``samples`` is 0."""
        self._model, self._parameters, self._loss, self._ranks = model, parameters, loss, ranks
        self._inputs, self._targets = pytree.tree_map_only(Tensor, Tensor.detach, (inputs, targets))
        self._samples = samples
        self.losses: Tensor = torch.empty(0)

    def sum_squares(self, rounds: int) -> dict[str, Tensor]:
        """Sum the squares of the per-sample gradients over all ranks.

        Args:
            rounds: The largest number of samples of a rank.

        Returns:
            This rank's shards of the sums.

        Raises:
            NotImplementedError: A parameter is used where its gradient cannot be squared.
        """
        sums, losses = self._zeros(), []
        with (
            taking_gradients(self._model),
            _without_gradients(self._parameters),
            _squared_gradients(self._model) as squared,
        ):
            for n in range(rounds):
                # A rank without further samples repeats one with weight zero, for every rank must take part.
                row, weight = (n, 1.0) if n < self._samples else (max(self._samples - 1, 0), 0.0)
                losses.append(self._backward(slice(row, row + 1), weight))
                self._check_squared(squared)
                self._add_gradients(sums)
        self.losses = torch.cat(losses)[: self._samples]
        return sums

    def sum_gradients(self) -> dict[str, Tensor]:
        """Sum the per-sample gradients over all ranks; return this rank's shards of the sums."""
        sums = self._zeros()
        with taking_gradients(self._model), _without_gradients(self._parameters):
            self._backward(slice(max(self._samples, 1)), 1.0 if self._samples else 0.0)
            self._add_gradients(sums)
        return sums

    def _zeros(self) -> dict[str, Tensor]:
        return {name: torch.zeros_like(to_local(parameter)) for name, parameter in self._parameters.items()}

    def _backward(self, rows: slice, weight: float) -> Tensor:
        inputs, targets = pytree.tree_map_only(Tensor, lambda leaf: leaf[rows], (self._inputs, self._targets))
        losses = self._loss(forward(self._model, inputs), targets)
        (losses.sum() * weight).backward()
        return losses.detach()

    def _check_squared(self, squared: Collection[str]) -> None:
        for name, parameter in self._parameters.items():
            if parameter.grad is not None and name not in squared:
                raise NotImplementedError(f"parameter `{name}` must be used by its own module, or by one that holds it")

    def _add_gradients(self, sums: Mapping[str, Tensor]) -> None:
        for name, parameter in self._parameters.items():
            if parameter.grad is not None:
                sums[name].add_(to_local(parameter.grad), alpha=self._ranks)  # `fully_shard` takes means over ranks
                parameter.grad = None


@contextmanager
def _squared_gradients(model: nn.Module) -> Iterator[set[str]]:
    """Square the gradients of gathered parameters in backward; yield the names of these parameters as they are met."""
    paths = {id(module): path for path, module in model.named_modules()}
    hooked: dict[int, Tensor] = {}
    names: set[str] = set()
    handles: list[RemovableHandle] = []

    def hook_parameters(module: nn.Module, _: Any) -> None:
        for path, parameter in module.named_parameters():
            if isinstance(parameter, DTensor) or not parameter.requires_grad:
                continue  # a module below gathers it when it runs
            name = f"{paths[id(module)]}.{path}".lstrip(".")
            if parameter.dtype != sum_dtype(parameter.dtype):
                raise NotImplementedError(
                    f"parameter `{name}` must be gathered in float32 or float64, got {parameter.dtype}: its gradients "
                    "would be squared in that"
                )
            names.add(name)
            if id(parameter) not in hooked:
                hooked[id(parameter)] = parameter  # keeps it alive, so that no other tensor gets its id
                handles.append(parameter.register_hook(Tensor.square))

    handles += [module.register_forward_pre_hook(hook_parameters) for module in model.modules()]
    try:
        yield names
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _without_gradients(parameters: Mapping[str, DTensor]) -> Iterator[None]:
    """Start without gradients, and put the parameters' own ones back at the end."""
    own = {name: parameter.grad for name, parameter in parameters.items()}
    try:
        for parameter in parameters.values():
            parameter.grad = None
        yield
    finally:
        for name, parameter in parameters.items():
            parameter.grad = own[name]
