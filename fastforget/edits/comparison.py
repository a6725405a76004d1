"""What two states of one model differ in: the edit that leads from the one to the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import TypeAlias

import torch
from torch import Tensor, nn

from fastforget.classifier.compilation import eager
from fastforget.classifier.fingerprint import fingerprint_of
from fastforget.edits.edit import Edit

__all__ = ["Comparison", "State"]

State: TypeAlias = nn.Module | Mapping[str, Tensor]
_EXTRA = "_extra_state"  # how PyTorch ends the names of a state dict under which there need be no tensor
_WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes: integers show every bit


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two states of one model, and what they differ in.

    Attributes:
        before: Fingerprint of the one.
        after: Fingerprint of the other.
        total: Number of elements of all the parameters, and of the buffers that differ.
        edits: The elements that differ in any bit, by parameter or buffer.
    """

    before: str
    after: str
    total: int
    edits: dict[str, Edit]

    @classmethod
    def of(cls, before: State, after: State) -> Comparison:
        """Compare two states, neither of which is changed or kept.

        Args:
            before: A module or, if the other one is a module, a state dict of such a module.
            after: Likewise.

        Returns:
            What they differ in.

        Raises:
            TypeError: One is something else, or both are state dicts.
            ValueError: They are not of the same architecture, share their memory, or have elements that changed to
                NaN or infinity, or changed and are of complex128.
            NotImplementedError: A parameter or buffer is on a device without kernels.
        """
        old, new = _read(before, after)
        _check_architecture(old, new)
        fingerprints = fingerprint_of(old.tensors), fingerprint_of(new.tensors)
        pairs = {name: (old.tensors[name], value) for name, value in new.tensors.items()}
        made = {name: _edit(name, *pair) for name, pair in pairs.items()}
        edits = {name: edit for name, edit in made.items() if edit is not None}
        if pairs and not edits and all(_share_memory(*pair) for pair in pairs.values()):
            raise ValueError(
                "`before` must be a copy that was made before the edit (copy.deepcopy), but its values are in the "
                "memory of `after`"
            )
        total = sum(value.numel() for name, value in new.tensors.items() if name in new.parameters or name in edits)
        return cls(*fingerprints, total, edits)


@dataclass(frozen=True, eq=False)
class _Contents:
    parameters: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor]

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {**self.parameters, **self.buffers}


def _read(before: State, after: State) -> tuple[_Contents, _Contents]:
    for name, state in (("before", before), ("after", after)):
        if not isinstance(state, (nn.Module, Mapping)):
            raise TypeError(f"`{name}` must be a module or a state dict, got {type(state).__name__}")
    if isinstance(before, nn.Module):
        own = _contents(before)
        return own, _contents(after) if isinstance(after, nn.Module) else _of_state_dict("after", after, before)
    if isinstance(after, nn.Module):
        return _of_state_dict("before", before, after), _contents(after)
    raise TypeError("`before` or `after` must be a module: two state dicts do not say which tensors are parameters")


def _contents(model: nn.Module) -> _Contents:
    module = eager(model)
    parameters = dict(module.named_parameters())
    for name, value in parameters.items():
        if isinstance(value, nn.parameter.UninitializedParameter):
            raise ValueError(f"parameter `{name}` must be initialised; run the model once first")  # noqa: TRY004
    return _Contents(parameters, dict(module.named_buffers()))


def _of_state_dict(argument: str, state: Mapping[str, Tensor], model: nn.Module) -> _Contents:
    """Return what a module would hold with a state dict: under one name what it shares under several."""
    module, own = eager(model), _contents(model)
    names: dict[int, list[str]] = {}
    for name, tensor in _all_names(module):
        names.setdefault(id(tensor), []).append(name)
    known = {name for each in names.values() for name in each}
    unknown = [name for name in state if name not in known and name.rpartition(".")[2] != _EXTRA]
    if unknown:
        raise ValueError(f"`{argument}` must be a state dict of the other model, which has no `{unknown[0]}`")
    kept = module.state_dict().keys()

    def find(name: str, tensor: Tensor) -> Tensor:
        aliases = names[id(tensor)]
        found = {alias: state[alias] for alias in aliases if alias in state}
        if not found and kept.isdisjoint(aliases):
            return tensor  # a buffer that no state dict holds
        if not found:
            raise ValueError(f"`{argument}` must be a state dict of the other model, but lacks `{name}`")
        for alias, value in found.items():
            if not isinstance(value, Tensor):
                raise TypeError(f"`{argument}` must hold tensors, got `{alias}` of type {type(value).__name__}")
        first, *others = found
        for other in others:
            if not _same_bits(found[first], found[other]):
                raise ValueError(f"`{argument}` must hold the same under `{first}` and `{other}`, which are one tensor")
        return found[first]

    return _Contents(
        {name: find(name, value) for name, value in own.parameters.items()},
        {name: find(name, value) for name, value in own.buffers.items()},
    )


def _all_names(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return chain(module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False))


def _check_architecture(old: _Contents, new: _Contents) -> None:
    """Raise ValueError unless both have the same parameters and buffers, but for their values."""
    for kind in ("parameters", "buffers"):
        ours, theirs = getattr(old, kind), getattr(new, kind)
        lacking = [name for name in ours if name not in theirs]
        besides = [name for name in theirs if name not in ours]
        if lacking or besides:
            fault = f"lacks `{lacking[0]}`" if lacking else f"has `{besides[0]}` besides"
            raise ValueError(f"`after` must have the {kind} of `before`, but {fault}")
        if list(ours) != list(theirs):
            raise ValueError(f"`after` must have the {kind} of `before` in the same order")
        for name, value in theirs.items():
            expected = ours[name]
            if (value.shape, value.dtype) != (expected.shape, expected.dtype):
                raise ValueError(
                    f"`after` must have `{name}` as {expected.dtype} of shape {tuple(expected.shape)}, as `before`, "
                    f"got {value.dtype} of {tuple(value.shape)}"
                )


def _edit(name: str, before: Tensor, after: Tensor) -> Edit | None:
    """Return the change of one tensor, in the form that takes less memory; None if there is none."""
    new = after.detach().reshape(-1)
    old = before.detach().reshape(-1).to(new.device)
    differs = _differing(old, new)
    count = int(differs.sum())
    if not count:
        return None
    if new.dtype == torch.complex128:
        raise ValueError(f"`{name}` changed, and a receipt cannot hold {new.dtype}: no file of its kind can")
    indices = differs.nonzero().squeeze(1).to(torch.int32 if len(new) < 2**31 else torch.int64)
    old_values, new_values = old[differs], new[differs]
    narrow = new.is_floating_point() and new.element_size() == 1  # float8, for which PyTorch lacks operations
    if not bool((new_values.float() if narrow else new_values).isfinite().all()):
        raise ValueError(f"`after` must be finite, got NaN or infinity in `{name}` where it changed")
    if not narrow and count * (indices.element_size() + 2 * new.element_size()) < 2 * new.nbytes:
        return Edit.selected(tuple(after.shape), indices, old_values, new_values)
    return Edit.selected(tuple(after.shape), None, old.clone(), new.clone())


def _differing(one: Tensor, other: Tensor) -> Tensor:
    """Return which elements of two vectors of one dtype differ in any bit."""
    word = _WORDS.get(one.element_size())
    if word is None:  # complex128
        parts = (vector.contiguous().view(torch.int64).view(len(vector), -1) for vector in (one, other))
        return torch.ne(*parts).any(1)
    return one.contiguous().view(word) != other.contiguous().view(word)


def _same_bits(one: Tensor, other: Tensor) -> bool:
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    return not bool(_differing(one.detach().reshape(-1), other.detach().reshape(-1).to(one.device)).any())


def _share_memory(one: Tensor, other: Tensor) -> bool:
    return one.device == other.device and one.data_ptr() == other.data_ptr()
