"""Sums of diagonal Fishers over ranks that each saw a part of the data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard

from fastforget.distributed.communication import check_backend, gather, reduce_scatter_in_order
from fastforget.distributed.consensus import Statement, consensus
from fastforget.distributed.sharding import Sharding, from_local
from fastforget.fisher.diagonal import FisherDiagonal

__all__ = ["merge", "merge_sharded"]


def merge(fisher: FisherDiagonal, group: dist.ProcessGroup | None = None) -> FisherDiagonal:
    """Return the sum of all ranks' diagonal Fishers, on every rank.

    The parts are added in the order of the ranks: every rank gets the bits of ``FisherDiagonal.merge`` of all parts in
    one process. Each of W ranks sends 2 (W - 1) / W of the bytes of the diagonal. Meanwhile it holds two more copies
    of its largest tensor.

    Args:
        fisher: This rank's sum over its own samples, ``fisher_diagonal(..., reduction="sum")``; not changed.
        group: The ranks; all by default.

    Returns:
        The total, with the samples, weights and losses of all.

    Raises:
        TypeError: ``fisher`` is no Fisher diagonal.
        ValueError: One part is a mean, or parts differ in model, definition, groups, names, shapes or dtypes. An error
            on one rank is raised on all of them.
    """
    with consensus(group) as statement:
        _check_part(fisher, statement, group)
    ranks = dist.get_world_size(group)

    def sum_whole(_: str, value: Tensor) -> Tensor:
        flat = value.reshape(-1)
        pieces = list(flat.split(max(-(-len(flat) // ranks), 1)))
        pieces += [flat[:0]] * (ranks - len(pieces))
        total = reduce_scatter_in_order(pieces, group)
        return torch.cat(gather(total, [len(piece) for piece in pieces], group)).view(value.shape)

    return _merge_parts(fisher, sum_whole, statement, group)


def merge_sharded(
    fisher: FisherDiagonal,
    parameters: nn.Module | Mapping[str, Tensor],
    group: dist.ProcessGroup | None = None,
    *,
    reduction: Literal["sum", "mean"] = "sum",
) -> FisherDiagonal:
    """Return the sum of all ranks' diagonal Fishers, sharded as the parameters are.

    The bits are those of `merge`, but no rank ever holds all of the sum. Each of W ranks sends (W - 1) / W of the bytes
    of the diagonal, or W - 1 times the bytes of replicated parameters.

    Args:
        fisher: This rank's sum over its own samples; not changed.
        parameters: A model that `fully_shard` sharded, or its parameters by name: DTensors sharded over their first
            dimension on one dimension of the mesh, and replicated on the others.
        group: The ranks, which must be those of the mesh; all by default.
        reduction: "sum", or "mean" to divide the total by the weight of all ranks.

    Returns:
        The total, of DTensors. With weights [G, N] their first dimension is that of the groups.

    Raises:
        TypeError: ``fisher`` is no Fisher diagonal.
        ValueError: As for `merge`; or a parameter is missing, no DTensor or of another shape.
        NotImplementedError: A parameter is sharded in another way.
    """
    named = dict(parameters.named_parameters()) if isinstance(parameters, nn.Module) else dict(parameters)
    with consensus(group) as statement:
        _check_part(fisher, statement, group)
        if reduction not in ("sum", "mean"):
            raise ValueError(f'`reduction` must be "sum" or "mean", got {reduction!r}')
        statement.facts["`reduction`"] = reduction
        sharded = _find_parameters(fisher, named)
        shardings = {name: Sharding.of(f"parameter `{name}`", value, group) for name, value in sharded.items()}
    rows_dim = fisher.weight.dim()  # after the groups, if there are any

    def sum_shard(name: str, value: Tensor) -> Tensor:
        sharding = shardings[name]
        rows = value.unsqueeze(-1) if value.dim() == rows_dim else value
        parts = [rows.narrow(rows_dim, *part) for part in zip(sharding.starts, sharding.sizes, strict=True)]
        shape = parts[dist.get_rank(group)].shape[: value.dim()]
        return reduce_scatter_in_order([part.reshape(-1) for part in parts], group).view(shape)

    def to_dtensor(name: str, part: Tensor) -> Tensor:
        parameter = sharded[name]
        placements = [Shard(rows_dim) if placement.is_shard() else placement for placement in parameter.placements]
        return from_local(part, parameter.device_mesh, placements, fisher[name].shape)

    total = _merge_parts(fisher, sum_shard, statement, group)
    if reduction == "mean":
        total.mean_()
    for values in (total, total.gradient or {}):
        values.update({name: to_dtensor(name, part) for name, part in values.items()})
    return total


def _check_part(fisher: FisherDiagonal, statement: Statement, group: dist.ProcessGroup | None) -> None:
    """Check this rank's part; state what must be equal in all parts, and what adds up."""
    if not isinstance(fisher, FisherDiagonal):
        raise TypeError(f"`fisher` must be a FisherDiagonal, got {type(fisher).__name__}")
    fisher.check_sum("`fisher`")
    for name, value in fisher.items():
        if isinstance(value, DTensor):
            raise ValueError(f"`fisher` must hold a rank's own sums, got `{name}` spread over ranks already")  # noqa: TRY004
        check_backend(f"`{name}`", value, group)
    statement.facts.update(
        {
            "fingerprint of the model": fisher.model,
            "definition": asdict(fisher.definition),
            "groups": list(fisher.weight.shape),
            "names of parameters": list(fisher),
            **{f"shape and dtype of `{name}`": [list(v.shape), str(v.dtype)] for name, v in fisher.items()},
            "with_gradient": fisher.gradient is not None,
        }
    )
    statement.notes.update(
        weight=fisher.weight.tolist(), samples=fisher.samples, fallback=fisher.fallback, losses=len(fisher.losses)
    )


def _find_parameters(fisher: FisherDiagonal, parameters: Mapping[str, Tensor]) -> dict[str, DTensor]:
    """Return the parameter of each sum, after checking their shapes."""
    sharded: dict[str, DTensor] = {}
    for name, value in fisher.items():
        parameter = parameters.get(name)
        if not isinstance(parameter, DTensor):
            kind = "nothing" if parameter is None else "a plain tensor"
            raise ValueError(f"`parameters` must hold a DTensor `{name}`, got {kind}")  # noqa: TRY004
        shape = value.shape[fisher.weight.dim() :]
        if parameter.shape != shape:
            raise ValueError(
                f"parameter `{name}` must have the shape of its Fisher, {tuple(shape)}, got {tuple(parameter.shape)}"
            )
        sharded[name] = parameter
    return sharded


def _merge_parts(
    fisher: FisherDiagonal,
    add: Callable[[str, Tensor], Tensor],
    statement: Statement,
    group: dist.ProcessGroup | None,
) -> FisherDiagonal:
    """Add tensors over ranks by ``add``, and everything else from the notes of all ranks."""
    notes = statement.all_notes
    sizes = [int(note["losses"]) for note in notes]
    # One rank with unknown losses makes those of the total unknown.
    losses = torch.cat(gather(fisher.losses, sizes, group)) if all(sizes) else fisher.losses[:0].clone()
    weights = [torch.tensor(note["weight"], dtype=torch.float64, device="cpu") for note in notes]
    fallback: dict[str, str] = {}
    for note in notes:
        fallback = {**note["fallback"], **fallback}
    return FisherDiagonal(
        {name: add(name, value) for name, value in fisher.items()},
        gradient=fisher.gradient and {name: add(name, value) for name, value in fisher.gradient.items()},
        fallback=fallback,
        losses=losses,
        reduction="sum",
        weight=sum(weights[1:], weights[0]).to(fisher.weight.device),
        samples=sum(note["samples"] for note in notes),
        model=fisher.model,
        definition=fisher.definition,
    )
