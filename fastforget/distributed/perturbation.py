"""Edits of sharded parameters in place: every rank changes what it holds, and keeps the receipt of that."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fastforget.distributed.agreement import agreement
from fastforget.distributed.layout import local, local_shards
from fastforget.fingerprint import fingerprint
from fastforget.receipt import Edit, Receipt, write

__all__ = ["apply", "perturb", "receipt_of", "revert"]


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

    Nothing but a line of text is sent between ranks. Each gets a receipt of its own shards, so that none holds what
    changed elsewhere; `revert` and `apply` take those of all ranks, each on its own. The new values are computed in the
    type of the directions and rounded once: the same bits as `fastforget.ops.perturb` of the whole parameters.

    Args:
        model: A model that `fully_shard` sharded, or one that every rank holds whole.
        directions: By the names of the parameters that change, spread as these: DTensors or this rank's parts.
        mask: Bool, likewise, from `topk_mask`.
        alpha: The step.
        group: The ranks; all by default.
        undo: Keep the old values in the receipts, so that they can be reverted.

    Returns:
        The receipt of this rank. Its ``settings`` name the rank, how many there are, and the edit on all of them.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: A name, shape or dtype does not fit, or the ranks differ. After an error on one rank the model is
            unchanged on all of them.
    """
    with agreement(group) as here:
        _check_alpha(alpha)
        shards = local_shards(model)
        edits = _edits(shards, directions, mask, alpha)
        here.facts.update({"`alpha`": alpha, "names of directions": list(directions)})
        before = fingerprint(shards)
    write(shards, edits, old=False)
    receipt = receipt_of(shards, edits, before, group, rule="perturb", alpha=alpha)
    return receipt if undo else receipt.without_undo()


def revert(receipt: Receipt, model: nn.Module, group: dist.ProcessGroup | None = None) -> None:
    """Put every changed bit of a sharded model back: on all ranks, or on none.

    Args:
        receipt: That of this rank.
        model: The model as the edit left it, sharded as it was then.
        group: The ranks; all by default.

    Raises:
        TypeError: Not a receipt.
        ValueError: One of the receipts has no old values, is of another rank or edit, or a rank does not hold what the
            edit left there.
    """
    _write(receipt, model, group, old=True)


def apply(receipt: Receipt, model: nn.Module, group: dist.ProcessGroup | None = None) -> None:
    """Make the same edit on another copy of a sharded model: on all ranks, or on none.

    Args:
        receipt: That of this rank.
        model: A model whose shards equal, bit for bit, those that the edit was made on.
        group: The ranks; all by default.

    Raises:
        TypeError: Not a receipt.
        ValueError: One of the receipts is of another rank or edit, or a rank does not hold what the edit was made on.
    """
    _write(receipt, model, group, old=False)


def receipt_of(
    shards: nn.Module,
    edits: Mapping[str, Edit],
    before: str,
    group: dist.ProcessGroup | None,
    *,
    rule: str,
    alpha: float,
    **facts: Any,
) -> Receipt:
    """Write the receipt of an edit that was just made on every rank.

    Args:
        shards: This rank's `local_shards`.
        edits: What changed here.
        before: The fingerprint of the shards before.
        group: The ranks.
        rule: The rule that found the change.
        alpha: The step.
        **facts: Other attributes of the receipt.

    Returns:
        The receipt of this rank.
    """
    after = fingerprint(shards)
    with agreement(group) as here:
        here.notes["fingerprints"] = [before, after]
    edit = hashlib.blake2b(repr([note["fingerprints"] for note in here.everywhere]).encode(), digest_size=16)
    settings = {**facts.pop("settings", {}), **_identity(group), "edit": edit.hexdigest()}
    known: dict[str, Any] = {"classes": (), "seconds": {}, "evidence": {}, **facts}
    return Receipt(
        rule=rule,
        settings=settings,
        alpha=alpha,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        before=before,
        after=after,
        total=sum(part.numel() for part in shards.parameters()),
        edits=edits,
        **known,
    )


def _identity(group: dist.ProcessGroup | None) -> dict[str, int]:
    return {"rank": dist.get_rank(group), "ranks": dist.get_world_size(group)}


def _write(receipt: Receipt, model: nn.Module, group: dist.ProcessGroup | None, *, old: bool) -> None:
    with agreement(group) as here:
        if not isinstance(receipt, Receipt):
            raise TypeError(f"`receipt` must be a Receipt, got {type(receipt).__name__}")
        if old and not receipt.reversible:
            raise ValueError("this receipt must hold the old values to be reverted; it was made with undo=False")
        made = {key: receipt.settings.get(key) for key in ("rank", "ranks")}
        if made != _identity(group):
            raise ValueError(f"`receipt` must be the one of {_identity(group)}, got that of {made}")
        shards = local_shards(model)
        wanted, found = receipt.after if old else receipt.before, fingerprint(shards)
        if found != wanted:
            what = "as this edit left it" if old else "the one this edit was made on"
            raise ValueError(
                f"`model` must be {what}: the fingerprint of its shards must be {wanted}, got {found}; nothing was "
                "changed"
            )
        here.facts["edit"] = receipt.settings.get("edit")
    write(shards, receipt.edits, old=old)


def _edits(
    shards: nn.Module, directions: Mapping[str, Tensor], mask: Mapping[str, Tensor], alpha: float
) -> dict[str, Edit]:
    """What changes on this rank."""
    if list(directions) != list(mask):
        raise ValueError(f"`mask` must have the names of `directions`, {list(directions)}, got {list(mask)}")
    parameters, edits = dict(shards.named_parameters()), dict[str, Edit]()
    for name, value in directions.items():
        if name not in parameters:
            raise ValueError(f"`directions` must name parameters of the model, got {name!r}")
        parameter, direction, chosen = parameters[name].detach(), local(value), local(mask[name])
        for what, part in (("directions", direction), ("mask", chosen)):
            if part.shape != parameter.shape:
                raise ValueError(
                    f"`{what}` must have the shape that parameter `{name}` has on this rank, "
                    f"{tuple(parameter.shape)}, got {tuple(part.shape)}"
                )
        if not direction.is_floating_point() or chosen.dtype != torch.bool:
            raise ValueError(
                f"`directions` must be floating point and `mask` bool, got {direction.dtype} and {chosen.dtype}"
            )
        places = chosen.reshape(-1).nonzero()[:, 0]
        if len(places):
            old = parameter.reshape(-1)[places]
            new = (old.to(direction.dtype) + alpha * direction.reshape(-1)[places]).to(old.dtype)
            narrow = torch.int32 if parameter.numel() < 2**31 else torch.int64
            edits[name] = Edit.selected(tuple(parameter.shape), places.to(narrow), old, new)
    return edits


def _check_alpha(alpha: Any) -> None:
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)):
        raise TypeError(f"`alpha` must be a number, got {type(alpha).__name__}")
    if not math.isfinite(alpha):
        raise ValueError(f"`alpha` must be finite, got {alpha}")
