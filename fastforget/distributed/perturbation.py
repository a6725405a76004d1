"""Edits of sharded parameters in place: every rank changes its own shards and keeps the receipt of them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fastforget.classifier.fingerprint import fingerprint
from fastforget.distributed.consensus import consensus
from fastforget.distributed.sharding import local_shards, to_local
from fastforget.edits.edit import Edit, write_edits
from fastforget.edits.receipt import Receipt, check_fingerprint, check_reversible

__all__ = ["apply", "make_receipt", "perturb", "revert"]


def perturb(
    model: nn.Module,
    directions: Mapping[str, Tensor],
    mask: Mapping[str, Tensor],
    alpha: float,
    group: dist.ProcessGroup | None = None,
    *,
    undo: bool = True,
) -> Receipt:
    """Add ``alpha * directions`` to the selected elements of sharded parameters, in place.

    Ranks exchange nothing but a line of text. Each rank gets a receipt of its own shards; `revert` and `apply` need
    every rank with its receipt. The new values are computed in the dtype of the directions and rounded once. They have
    the bits of `fastforget.ops.perturb` on the whole parameters.

    Args:
        model: A model that `fully_shard` sharded, or one that every rank holds whole.
        directions: By the names of the parameters to change: DTensors sharded as they are, or this rank's parts.
        mask: Bool, sharded likewise, from `topk_mask`.
        alpha: The step.
        group: The ranks; all by default.
        undo: Keep the old values in the receipts, so that the edit can be reverted.

    Returns:
        The receipt of this rank. Its ``settings`` name the rank, the number of ranks, and the edit on all of them.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: A name, shape or dtype does not fit, or the ranks differ. After an error on one rank the model is
            unchanged on all of them.
    """
    with consensus(group) as statement:
        _check_alpha(alpha)
        shards = local_shards(model)
        edits = _compute_edits(shards, directions, mask, alpha)
        statement.facts.update({"`alpha`": alpha, "names of directions": list(directions)})
        before = fingerprint(shards)
    write_edits(shards, edits, old=False)
    receipt = make_receipt(shards, edits, before, group, rule="perturb", alpha=alpha)
    return receipt if undo else receipt.without_undo()


def revert(receipt: Receipt, model: nn.Module, group: dist.ProcessGroup | None = None) -> None:
    """Put every changed bit of a sharded model back: on all ranks, or on none.

    Args:
        receipt: This rank's receipt.
        model: The model as the edit left it, sharded as it was then.
        group: The ranks; all by default.

    Raises:
        TypeError: ``receipt`` is no receipt.
        ValueError: A receipt has no old values, or is of another rank or edit; or shards are not as the edit left them.
    """
    _write(receipt, model, group, old=True)


def apply(receipt: Receipt, model: nn.Module, group: dist.ProcessGroup | None = None) -> None:
    """Make the same edit on another copy of a sharded model: on all ranks, or on none.

    Args:
        receipt: This rank's receipt.
        model: A model whose shards equal, bit for bit, those that the edit was made on.
        group: The ranks; all by default.

    Raises:
        TypeError: ``receipt`` is no receipt.
        ValueError: A receipt is of another rank or edit, or shards are not those that the edit was made on.
    """
    _write(receipt, model, group, old=False)


def make_receipt(
    shards: nn.Module,
    edits: Mapping[str, Edit],
    before: str,
    group: dist.ProcessGroup | None,
    *,
    rule: str,
    alpha: float,
    **facts: Any,
) -> Receipt:
    """Make the receipt of an edit that every rank has just made.

    Args:
        shards: The `local_shards` of the edited model.
        edits: The changes on this rank.
        before: The fingerprint of the shards before the edit.
        group: The ranks.
        rule: The rule that found the change.
        alpha: The step.
        **facts: Other attributes of the receipt.

    Returns:
        The receipt of this rank.
    """
    after = fingerprint(shards)
    with consensus(group) as statement:
        statement.notes["fingerprints"] = [before, after]
    fingerprints = [note["fingerprints"] for note in statement.all_notes]
    edit = hashlib.blake2b(repr(fingerprints).encode(), digest_size=16).hexdigest()
    settings = {**facts.pop("settings", {}), **_rank_of(group), "edit": edit}
    attributes: dict[str, Any] = {"classes": (), "seconds": {}, "evidence": {}, **facts}
    return Receipt(
        rule=rule,
        settings=settings,
        alpha=alpha,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        before=before,
        after=after,
        total=sum(part.numel() for part in shards.parameters()),
        edits=edits,
        **attributes,
    )


def _rank_of(group: dist.ProcessGroup | None) -> dict[str, int]:
    return {"rank": dist.get_rank(group), "ranks": dist.get_world_size(group)}


def _write(receipt: Receipt, model: nn.Module, group: dist.ProcessGroup | None, *, old: bool) -> None:
    with consensus(group) as statement:
        if not isinstance(receipt, Receipt):
            raise TypeError(f"`receipt` must be a Receipt, got {type(receipt).__name__}")
        if old:
            check_reversible(receipt)
        made_by = {key: receipt.settings.get(key) for key in ("rank", "ranks")}
        if made_by != _rank_of(group):
            raise ValueError(f"`receipt` must be the one of {_rank_of(group)}, got that of {made_by}")
        shards = local_shards(model)
        check_fingerprint(receipt, shards, old=old, name="the fingerprint of its shards")
        statement.facts["edit"] = receipt.settings.get("edit")
    write_edits(shards, receipt.edits, old=old)


def _compute_edits(
    shards: nn.Module, directions: Mapping[str, Tensor], mask: Mapping[str, Tensor], alpha: float
) -> dict[str, Edit]:
    """Compute the changes of this rank's shards, after all checks."""
    if list(directions) != list(mask):
        raise ValueError(f"`mask` must have the names of `directions`, {list(directions)}, got {list(mask)}")
    parameters, edits = dict(shards.named_parameters()), dict[str, Edit]()
    for name, value in directions.items():
        if name not in parameters:
            raise ValueError(f"`directions` must name parameters of the model, got {name!r}")
        parameter, direction, selected = parameters[name].detach(), to_local(value), to_local(mask[name])
        _check_parts(name, parameter, direction, selected)
        indices = selected.reshape(-1).nonzero()[:, 0]
        if len(indices):
            old = parameter.reshape(-1)[indices]
            new = (old.to(direction.dtype) + alpha * direction.reshape(-1)[indices]).to(old.dtype)
            narrow = torch.int32 if parameter.numel() < 2**31 else torch.int64
            edits[name] = Edit.selected(tuple(parameter.shape), indices.to(narrow), old, new)
    return edits


def _check_parts(name: str, parameter: Tensor, direction: Tensor, selected: Tensor) -> None:
    for argument, part in (("directions", direction), ("mask", selected)):
        if part.shape != parameter.shape:
            raise ValueError(
                f"`{argument}` must have the shape that parameter `{name}` has on this rank, "
                f"{tuple(parameter.shape)}, got {tuple(part.shape)}"
            )
    if not direction.is_floating_point() or selected.dtype != torch.bool:
        raise ValueError(
            f"`directions` must be floating point and `mask` bool, got {direction.dtype} and {selected.dtype}"
        )


def _check_alpha(alpha: Any) -> None:
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)):
        raise TypeError(f"`alpha` must be a number, got {type(alpha).__name__}")
    if not math.isfinite(alpha):
        raise ValueError(f"`alpha` must be finite, got {alpha}")
