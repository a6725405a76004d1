"""The diagonal Fisher of a model whose parameters `fully_shard` spread over ranks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils import _pytree as pytree
from torch.utils.hooks import RemovableHandle

from fastforget.batch import Inputs, batch_size, check_finite, forward
from fastforget.capture import sum_dtype
from fastforget.diagonal import Definition, FisherDiagonal
from fastforget.distributed.agreement import agreement, gather
from fastforget.distributed.layout import Layout, local, local_shards, spread
from fastforget.fingerprint import fingerprint
from fastforget.fisher_run import undisturbed
from fastforget.labels import Loss
from fastforget.losses import cross_entropy, describe
from fastforget.model import check_eval, eager, watched_parameters
from fastforget.waiting import Checks

__all__ = ["Run", "fisher_diagonal", "sharded_parameters"]


def fisher_diagonal(
    model: nn.Module,
    inputs: Inputs,
    targets: Any,
    group: dist.ProcessGroup | None = None,
    *,
    loss: Loss = cross_entropy,
    reduction: Literal["mean", "sum"] = "mean",
    with_gradient: bool = False,
) -> FisherDiagonal:
    r"""Compute the diagonal of the empirical Fisher of a model that `fully_shard` sharded, over samples of all ranks.

    ::

        F_i = sum_r sum_n (dL_rn / dtheta_i)^2 / number of samples

    Sample n of every rank is run at the same time. Gradients are squared where backward leaves them, before
    `fully_shard` reduces and scatters them, so that its sums over ranks are those of the squares, and nothing is
    gathered beyond what it gathers for a forward and backward. Each sample costs such a forward and backward: a model
    of which every rank can hold a copy is faster with `fastforget.fisher_diagonal` and `merge_sharded`.

    Args:
        model: In eval mode, every parameter sharded over its first dimension, in float32 or float64, and gathered and
            reduced in it (no `MixedPrecisionPolicy` with other dtypes).
        inputs: This rank's samples, at least one; ranks may have different numbers of them.
        targets: What the loss takes beside the model's outputs, for instance class labels [N].
        group: The ranks, those of the mesh; all by default.
        loss: ``loss(outputs, targets)`` returns one loss per sample, [N].
        reduction: "mean" or "sum".
        with_gradient: Also return the mean (or sum) of the per-sample gradients.

    Returns:
        DTensors by parameter name, sharded as the parameters are; losses and samples of all ranks. ``model`` is a
        fingerprint of the shards of all ranks, which is not that of the whole model.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument has a wrong value or shape, a parameter is frozen or not sharded, a module is in train
            mode, inputs or losses are NaN or infinite. An error on one rank is raised on all of them.
        NotImplementedError: A parameter is sharded in another way, of another dtype, or used outside its module.
    """
    with agreement(group) as here:
        model = eager(model)
        shards = local_shards(model)
        parameters = sharded_parameters(model, group)
        samples, checks = batch_size(inputs, targets), Checks()
        check_finite(inputs, checks)
        checks.settle()
        if reduction not in ("mean", "sum"):
            raise ValueError(f'`reduction` must be "mean" or "sum", got {reduction!r}')
        here.facts.update({"`reduction`": reduction, "`with_gradient`": with_gradient, "loss": describe(loss)})
        here.notes.update(samples=samples, model=fingerprint(shards))
    sizes = [int(note["samples"]) for note in here.everywhere]
    names = hashlib.blake2b(repr([note["model"] for note in here.everywhere]).encode(), digest_size=16).hexdigest()
    run = Run(model, parameters, inputs, targets, loss, dist.get_world_size(group), samples=samples)
    squares = run.squares(max(sizes))
    gradient = run.sums() if with_gradient else None
    losses = torch.cat(gather(run.losses, sizes, group))
    if not bool(torch.isfinite(losses).all()):
        raise ValueError("`loss` must be finite, got NaN or infinity")
    weight = torch.tensor(float(sum(sizes)), dtype=torch.float64, device=losses.device)
    found = FisherDiagonal(
        squares,
        gradient=gradient,
        fallback={},
        losses=losses,
        reduction="sum",
        weight=weight,
        samples=sum(sizes),
        model=names,
        definition=Definition("given", "sample", *describe(loss)),
    )
    found = found.mean_() if reduction == "mean" else found
    for values in (found, found.gradient or {}):
        values.update({name: _like(parameters[name], part) for name, part in values.items()})
    return found


class Run:
    """Forwards and backwards of a sharded model, of which every rank does the same number.

    Attributes:
        losses: The loss of each sample of this rank, after `squares`.
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
        """Take the first ``samples`` of the inputs, which hold at least one more than none."""
        self._model, self._parameters, self._loss, self._ranks = model, parameters, loss, ranks
        self._inputs, self._targets = pytree.tree_map_only(Tensor, Tensor.detach, (inputs, targets))
        self._samples = samples
        self.losses = torch.empty(0)

    def squares(self, rounds: int) -> dict[str, Tensor]:
        """Sum the squares of the samples' gradients over all ranks.

        Args:
            rounds: The largest number of samples of a rank.

        Returns:
            This rank's shards.

        Raises:
            NotImplementedError: A parameter is used where its gradient cannot be squared.
        """
        sums, losses = self._zeros(), []
        with undisturbed(self._model), _own_gradients(self._parameters), _squared(self._model) as hooked:
            for n in range(rounds):
                here = n < self._samples  # who has none left takes part with a loss of zero
                at = n if here else max(self._samples - 1, 0)
                losses.append(self._backward(slice(at, at + 1), 1.0 if here else 0.0))
                if missed := [
                    name for name, p in self._parameters.items() if p.grad is not None and name not in hooked
                ]:
                    raise NotImplementedError(
                        f"parameter `{missed[0]}` must be used by its own module, or by one that holds it"
                    )
                self._add_to(sums)
        self.losses = torch.cat(losses)[: self._samples]
        return sums

    def sums(self) -> dict[str, Tensor]:
        """Sum the samples' gradients over all ranks: this rank's shards."""
        sums = self._zeros()
        with undisturbed(self._model), _own_gradients(self._parameters):
            self._backward(slice(max(self._samples, 1)), 1.0 if self._samples else 0.0)
            self._add_to(sums)
        return sums

    def _zeros(self) -> dict[str, Tensor]:
        return {name: torch.zeros_like(local(parameter)) for name, parameter in self._parameters.items()}

    def _backward(self, rows: slice, weight: float) -> Tensor:
        inputs, targets = pytree.tree_map_only(Tensor, lambda leaf: leaf[rows], (self._inputs, self._targets))
        losses = self._loss(forward(self._model, inputs), targets)
        (losses.sum() * weight).backward()
        return losses.detach()

    def _add_to(self, sums: dict[str, Tensor]) -> None:
        for name, parameter in self._parameters.items():
            if parameter.grad is not None:
                sums[name].add_(local(parameter.grad), alpha=self._ranks)  # `fully_shard` takes means over ranks
                parameter.grad = None


@contextmanager
def _squared(model: nn.Module) -> Iterator[set[str]]:
    """Have backward square the gradients of the gathered parameters; yields the names of those it does it for."""
    paths = {id(module): path for path, module in model.named_modules()}
    seen: dict[int, Tensor] = {}
    names: set[str] = set()
    handles: list[RemovableHandle] = []

    def gathered(module: nn.Module, _: Any) -> None:
        for below, parameter in module.named_parameters():
            if isinstance(parameter, DTensor) or not parameter.requires_grad:
                continue  # of a module below, which gathers it when it runs
            name = f"{paths[id(module)]}.{below}".lstrip(".")
            if parameter.dtype != sum_dtype(parameter.dtype):
                raise NotImplementedError(
                    f"parameter `{name}` must be gathered in float32 or float64, got {parameter.dtype}: its gradients "
                    "would be squared in that"
                )
            names.add(name)
            if id(parameter) not in seen:
                seen[id(parameter)] = parameter
                handles.append(parameter.register_hook(Tensor.square))

    handles += [module.register_forward_pre_hook(gathered) for module in model.modules()]
    try:
        yield names
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _own_gradients(parameters: dict[str, DTensor]) -> Iterator[None]:
    """Put the parameters' gradients aside, and back afterwards."""
    before = {name: parameter.grad for name, parameter in parameters.items()}
    try:
        for parameter in parameters.values():
            parameter.grad = None
        yield
    finally:
        for name, parameter in parameters.items():
            parameter.grad = before[name]


def sharded_parameters(model: nn.Module, group: dist.ProcessGroup | None) -> dict[str, DTensor]:
    """Return the parameters of a model by name, after checking that this module can work on them.

    Args:
        model: The eager module, nothing gathered.
        group: The ranks.

    Returns:
        The sharded parameters, which stay the same objects while they are gathered.

    Raises:
        ValueError: One is frozen, not sharded or on a mesh of other ranks, or a module is in train mode.
        NotImplementedError: One is sharded in another way, of another dtype, or on a device without kernels.
    """
    check_eval(model)
    found: dict[str, DTensor] = {}
    for name, parameter in watched_parameters(model, None).items():
        if not isinstance(parameter, DTensor):
            raise ValueError(f"parameter `{name}` must be sharded by fully_shard, got a plain tensor")  # noqa: TRY004
        if parameter.dtype != sum_dtype(parameter.dtype):
            raise NotImplementedError(f"parameter `{name}` must be float32 or float64, got {parameter.dtype}")
        Layout.of(f"parameter `{name}`", parameter, group)
        found[name] = parameter
    return found


def _like(parameter: DTensor, part: Tensor) -> Tensor:
    return spread(part, parameter.device_mesh, parameter.placements, parameter.shape)
