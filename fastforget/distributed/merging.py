"""Sums of diagonal Fishers over ranks that each saw a part of the data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard

from fastforget.diagonal import FisherDiagonal
from fastforget.distributed.agreement import Agreement, agreement, check_backend, gather
from fastforget.distributed.layout import Layout, spread

__all__ = ["merge", "merge_sharded"]


def merge(fisher: FisherDiagonal, group: dist.ProcessGroup | None = None) -> FisherDiagonal:
    """Return the sum of all ranks' diagonal Fishers, on every rank.

    The parts are added in the order of the ranks: every rank gets the bits of ``FisherDiagonal.merge`` of all parts in
    one process. Of W ranks each sends 2 (W - 1) / W of the bytes of the diagonal, and holds two more copies of its
    largest tensor meanwhile.

    Args:
        fisher: This rank's sum over samples of its own, ``fisher_diagonal(..., reduction="sum")``; not changed.
        group: The ranks; all by default.

    Returns:
        The total, with the samples, weights and losses of all.

    Raises:
        TypeError: Not a Fisher diagonal.
        ValueError: One is a mean, or they differ in model, definition, groups, names, shapes or dtypes. An error on
            one rank is raised on all of them.
    """
    with agreement(group) as here:
        _check(fisher, here, group)
    ranks = dist.get_world_size(group)

    def total(_: str, value: Tensor) -> Tensor:
        flat = value.reshape(-1)
        pieces = list(flat.split(max(-(-len(flat) // ranks), 1)))
        pieces += [flat[:0]] * (ranks - len(pieces))
        return torch.cat(gather(_sum(pieces, group), [len(p) for p in pieces], group)).view(value.shape)

    return _merged(fisher, total, here, group)


def merge_sharded(
    fisher: FisherDiagonal,
    parameters: nn.Module | Mapping[str, Tensor],
    group: dist.ProcessGroup | None = None,
    *,
    reduction: Literal["sum", "mean"] = "sum",
) -> FisherDiagonal:
    """Return the sum of all ranks' diagonal Fishers, on each rank the part that belongs to its shard of the parameters.

    As `merge`, bit for bit, but no rank ever holds all of the sum: it is sharded as the parameters are. Of W ranks each
    sends (W - 1) / W of the bytes of the diagonal, or for replicated parameters W - 1 times their bytes.

    Args:
        fisher: This rank's sum over samples of its own; not changed.
        parameters: A model that `fully_shard` sharded, or its parameters by name: DTensors sharded over their first
            dimension on one dimension of the mesh, and replicated on the others.
        group: The ranks, those of the mesh; all by default.
        reduction: "sum", or "mean" to divide the total by the weight of all ranks.

    Returns:
        The total, of DTensors; for weights [G, N] their first dimension is that of the groups.

    Raises:
        TypeError: Not a Fisher diagonal.
        ValueError: As for `merge`; or a parameter is missing, no DTensor or of another shape.
        NotImplementedError: A parameter is sharded in another way.
    """
    named = dict(parameters.named_parameters()) if isinstance(parameters, nn.Module) else dict(parameters)
    with agreement(group) as here:
        _check(fisher, here, group)
        if reduction not in ("sum", "mean"):
            raise ValueError(f'`reduction` must be "sum" or "mean", got {reduction!r}')
        here.facts["`reduction`"] = reduction
        layouts = _layouts(fisher, named, group)
    groups = fisher.weight.dim()

    def mine(name: str, value: Tensor) -> Tensor:
        layout = layouts[name][1]
        rows = value.unsqueeze(-1) if value.dim() == groups else value
        parts = [rows.narrow(groups, *part) for part in zip(layout.starts, layout.rows, strict=True)]
        shape = parts[dist.get_rank(group)].shape[: value.dim()]
        return _sum([part.reshape(-1) for part in parts], group).view(shape)

    def whole(name: str, part: Tensor) -> Tensor:
        parameter = layouts[name][0]
        placements = [Shard(groups) if placement.is_shard() else placement for placement in parameter.placements]
        return spread(part, parameter.device_mesh, placements, fisher[name].shape)

    found = _merged(fisher, mine, here, group)
    found = found.mean_() if reduction == "mean" else found
    for values in (found, found.gradient or {}):
        values.update({name: whole(name, part) for name, part in values.items()})
    return found


def _sum(pieces: Sequence[Tensor], group: dist.ProcessGroup | None) -> Tensor:
    """Send every rank its piece, and return the sum of those that came for this one, added in the order of the ranks.

    Not a reduction of the backend: of these none says in which order it adds.

    Args:
        pieces: One for each rank, 1-D; those for one rank have one size.
        group: The ranks.

    Returns:
        The sum, of the size of this rank's own piece.
    """
    ranks, mine = len(pieces), len(pieces[dist.get_rank(group)])
    received = pieces[0].new_empty(ranks * mine)
    dist.all_to_all_single(received, torch.cat(list(pieces)), [mine] * ranks, [len(p) for p in pieces], group=group)
    first, *others = received.view(ranks, mine)
    total: Tensor = first.clone()
    for other in others:
        total += other
    return total


def _check(fisher: FisherDiagonal, here: Agreement, group: dist.ProcessGroup | None) -> None:
    """Check this rank's part, and say what must be the same in all parts, and what they add up to."""
    if not isinstance(fisher, FisherDiagonal):
        raise TypeError(f"`fisher` must be a FisherDiagonal, got {type(fisher).__name__}")
    fisher.check_sum("`fisher`")
    for name, value in fisher.items():
        if isinstance(value, DTensor):
            raise ValueError(f"`fisher` must hold a rank's own sums, got `{name}` spread over ranks already")  # noqa: TRY004
        check_backend(f"`{name}`", value, group)
    here.facts.update(
        {
            "fingerprint of the model": fisher.model,
            "definition": dict(vars(fisher.definition)),
            "groups": list(fisher.weight.shape),
            "names of parameters": list(fisher),
            **{f"shape and dtype of `{name}`": [list(v.shape), str(v.dtype)] for name, v in fisher.items()},
            "with_gradient": fisher.gradient is not None,
        }
    )
    here.notes.update(
        weight=fisher.weight.tolist(), samples=fisher.samples, fallback=fisher.fallback, losses=len(fisher.losses)
    )


def _layouts(
    fisher: FisherDiagonal, parameters: Mapping[str, Tensor], group: dist.ProcessGroup | None
) -> dict[str, tuple[DTensor, Layout]]:
    found: dict[str, tuple[DTensor, Layout]] = {}
    for name, value in fisher.items():
        parameter = parameters.get(name)
        if not isinstance(parameter, DTensor):
            kind = "nothing" if parameter is None else "a plain tensor"
            raise ValueError(f"`parameters` must hold a DTensor `{name}`, got {kind}")  # noqa: TRY004
        if parameter.shape != value.shape[fisher.weight.dim() :]:
            raise ValueError(
                f"parameter `{name}` must have the shape of its Fisher, {tuple(value.shape[fisher.weight.dim() :])}, "
                f"got {tuple(parameter.shape)}"
            )
        found[name] = parameter, Layout.of(f"parameter `{name}`", parameter, group)
    return found


def _merged(
    fisher: FisherDiagonal,
    total: Callable[[str, Tensor], Tensor],
    here: Agreement,
    group: dist.ProcessGroup | None,
) -> FisherDiagonal:
    """Put the totals together with what all ranks noted; known losses are known of all or not at all."""
    notes = here.everywhere
    sizes = [int(note["losses"]) for note in notes]
    losses = torch.cat(gather(fisher.losses, sizes, group)) if all(sizes) else fisher.losses[:0].clone()
    weights = [torch.tensor(note["weight"], dtype=torch.float64, device="cpu") for note in notes]
    fallback: dict[str, Any] = {}
    for note in notes:
        fallback = {**note["fallback"], **fallback}
    sums = {name: total(name, value) for name, value in fisher.items()}
    gradient = fisher.gradient and {name: total(name, value) for name, value in fisher.gradient.items()}
    facts = {**vars(fisher), "gradient": gradient, "fallback": fallback, "losses": losses}
    facts["weight"] = sum(weights[1:], weights[0]).to(fisher.weight.device)
    facts["samples"] = sum(note["samples"] for note in notes)
    return FisherDiagonal(sums, **facts)
