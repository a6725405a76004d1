"""The changed elements of parameters and buffers, and how they are written into a model."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from fastforget import ops
from fastforget.classifier.devices import upload
from fastforget.classifier.fingerprint import fingerprint
from fastforget.classifier.kept_values import prepare_to_drop

__all__ = ["Edit", "current_values", "prepare_edits", "write_edits", "write_exactly"]

_LOG = logging.getLogger(__name__)
_OF_KERNEL = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@dataclass(frozen=True, eq=False)
class Edit:
    """The changed elements of one parameter or buffer.

    The parts are checked to fit together, so that nothing half-sensible is ever written to a model.

    Attributes:
        shape: Its shape.
        indices: Row-major positions, int32 or int64 [K], increasing; None if every element changed.
        old: The values before, [K] in its dtype; None if they were not kept.
        new: The values after, [K].
        checked: Whether the parts are known to fit; then no check waits for a device.
    """

    shape: tuple[int, ...]
    indices: Tensor | None
    old: Tensor | None
    new: Tensor
    checked: InitVar[bool] = field(default=False, kw_only=True)

    def __post_init__(self, checked: bool) -> None:
        """Check the parts, unless they are known to fit."""
        if not checked:
            self._check()

    @classmethod
    def selected(cls, shape: tuple[int, ...], indices: Tensor | None, old: Tensor | None, new: Tensor) -> Edit:
        """Return an edit of parts that are known to fit, for instance with the indices of `ops.select_indices`."""
        return cls(shape, indices, old, new, checked=True)

    def parts(self) -> dict[str, Tensor]:
        """Return the tensors that there are by name."""
        parts = {"indices": self.indices, "old": self.old, "new": self.new}
        return {name: value for name, value in parts.items() if value is not None}

    def without_old(self) -> Edit:
        """Return the edit without the values before."""
        return Edit.selected(self.shape, self.indices, None, self.new)

    def _check(self) -> None:
        size = math.prod(self.shape)
        if self.new.dim() != 1 or (self.indices is None and len(self.new) != size):
            raise ValueError(f"an edit must hold one new value per changed element, got shape {tuple(self.new.shape)}")
        if self.old is not None and (self.old.shape != self.new.shape or self.old.dtype != self.new.dtype):
            raise ValueError("an edit must hold as many old values as new ones, of the same dtype")
        if self.indices is None:
            return
        if self.indices.shape != self.new.shape or self.indices.dtype not in (torch.int32, torch.int64):
            raise ValueError("an edit must hold one int32 or int64 index per changed element")
        if len(self.indices) and (int(self.indices.min()) < 0 or int(self.indices.max()) >= size):
            raise ValueError(f"an edit's indices must lie in [0, {size})")
        if len(self.indices) > 1 and not bool((self.indices[1:] > self.indices[:-1]).all()):
            raise ValueError("an edit's indices must increase")


def current_values(model: nn.Module, edits: Iterable[Mapping[str, Edit]]) -> dict[str, Edit]:
    """Return the current values of a model wherever one of some edits changes it, as an edit without old values.

    Args:
        model: The eager module.
        edits: By name of the parameter or buffer, all of them in the model.

    Returns:
        The values, copied, by name.
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    touching: dict[str, list[Edit]] = {}
    for group in edits:
        for name, edit in group.items():
            touching.setdefault(name, []).append(edit)
    values: dict[str, Edit] = {}
    for name in sorted(touching):
        value = tensors[name].detach()
        places = [edit.indices for edit in touching[name]]
        known = [place.to(value.device) for place in places if place is not None]
        if len(known) < len(places):
            values[name] = Edit.selected(tuple(value.shape), None, None, value.flatten().clone())
        else:
            indices = known[0] if len(known) == 1 else torch.cat(known).unique()  # this waits for the device
            values[name] = Edit.selected(tuple(value.shape), indices, None, value.flatten()[indices])
    return values


def write_edits(model: nn.Module, edits: Mapping[str, Edit], *, old: bool) -> None:
    """Write the old or new values of all edits into the model's own storage, with the checks of `prepare_edits`."""
    prepare_edits(model, edits, old=old)()


def write_exactly(model: nn.Module, edits: Mapping[str, Edit], expected: str, *, old: bool) -> None:
    """Write the old or new values of all edits, and put back what was there if they do not make a certain model.

    Args:
        model: The eager module.
        edits: What to write, by name of the parameter or buffer.
        expected: The fingerprint of the model that they should make.
        old: Write the old values instead of the new ones.

    Raises:
        ValueError: They make another model, or a new value is NaN or infinite where the current one is not; or as
            `prepare_edits`. The model is as it was.
    """
    write = prepare_edits(model, edits, old=old)
    current = current_values(model, [edits])
    if not old:
        _check_finite(edits, current)
    put_back = prepare_edits(model, current, old=False)
    try:
        write()
        found = fingerprint(model)
    except BaseException:
        put_back()
        raise
    if found != expected:
        put_back()
        raise ValueError(
            f"this receipt must hold the values of the model {expected}, but they make {found}: it was changed or "
            "forged; the model is as it was"
        )
    _LOG.info("a receipt %s a model, which is now %s", "reverted" if old else "was applied to", found)


def prepare_edits(model: nn.Module, edits: Mapping[str, Edit], *, old: bool) -> Callable[[], None]:
    """Prepare to write the old or new values of all edits into the model's own storage.

    Everything is checked and moved to the model's device here, so that the writes themselves are one short section.

    Args:
        model: The eager module.
        edits: What to write, by name of the parameter or buffer.
        old: Write the old values instead of the new ones.

    Returns:
        A function that writes them; the model must not change before it is called.

    Raises:
        ValueError: A parameter or buffer is missing, or has another shape or dtype, or the model keeps values of a
            parameter where they
            cannot be dropped, see `prepare_to_drop`.
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    sparse: dict[tuple[torch.device, torch.dtype], list[tuple[Tensor, Tensor, Tensor]]] = {}
    whole: list[tuple[Tensor, Tensor]] = []
    for name, edit in edits.items():
        values = edit.old if old else edit.new
        tensor = tensors.get(name)
        if values is None:
            raise ValueError(f"the receipt must hold the old values of `{name}`")
        if tensor is None:
            raise ValueError(f"`model` must have `{name}` of this receipt")
        if tuple(tensor.shape) != edit.shape or tensor.dtype != values.dtype:
            raise ValueError(
                f"`{name}` must be {values.dtype} of shape {edit.shape}, got {tensor.dtype} of {tuple(tensor.shape)}"
            )
        target, values = tensor.detach(), values.to(tensor.device)
        if edit.indices is None:
            whole.append((target, values.view(edit.shape)))
        elif target.is_contiguous() and target.dtype in _OF_KERNEL:
            places = edit.indices.to(target.device, torch.int64)
            sparse.setdefault((target.device, target.dtype), []).append((target, places, values))
        else:
            changed = target.flatten().index_copy(0, edit.indices.to(target.device, torch.int64), values)
            whole.append((target, changed.view(edit.shape)))
    drop = prepare_to_drop(model, edits)
    return partial(_write, [_joined(group) for group in sparse.values()], whole, drop)


def _check_finite(edits: Mapping[str, Edit], current: Mapping[str, Edit]) -> None:
    """Raise ValueError if a new value is NaN or infinite where the current one, of the same element, is not."""
    spoilt: dict[torch.device, dict[str, Tensor]] = {}
    for name, edit in edits.items():
        now = current[name].new
        spoilt.setdefault(now.device, {})[name] = (~_finite(edit.new.to(now.device)) & _finite(now)).any()
    for flags in spoilt.values():
        for name, found in zip(flags, torch.stack(list(flags.values())).tolist(), strict=True):
            if found:
                raise ValueError(f"this receipt must hold finite values, got NaN or infinity for `{name}`")


def _finite(values: Tensor) -> Tensor:
    narrow = values.is_floating_point() and values.element_size() == 1  # float8, for which PyTorch lacks it
    return (values.float() if narrow else values).isfinite()


def _joined(group: Sequence[tuple[Tensor, Tensor, Tensor]]) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
    """Return the arguments of `ops.perturb_write` for tensors of one device and dtype."""
    targets, places, values = ([each[part] for each in group] for part in range(3))
    counts = upload([len(each) for each in places], targets[0].device)
    return targets, torch.cat(places), counts, torch.cat(values)


def _write(
    sparse: Sequence[tuple[list[Tensor], Tensor, Tensor, Tensor]],
    whole: Sequence[tuple[Tensor, Tensor]],
    drop_kept: Callable[[], None],
) -> None:
    with torch.no_grad():
        for targets, *elements in sparse:
            ops.perturb_write(targets, *elements)
            torch.autograd.graph.increment_version(targets)
        for target, values in whole:
            target.copy_(values)
    drop_kept()
    # inside torch.autocast, predictions would use casts of the old values
    torch.clear_autocast_cache()
