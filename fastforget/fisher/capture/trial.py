"""Where the samples are in a result that no rule knows, found by trying.

A function keeps samples apart if a sample in its arguments acts on its own place in the result, and on no other. So it
is called again with some samples replaced by others. Where a layout is right, the result then holds the replacements
at their places, and all else as before, to the bit. For each pair of samples there is a call that replaces the one and
keeps the other.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fastforget.fisher.capture.call import Call, tensors_in, writes
from fastforget.fisher.capture.layout import Layout, LayoutState, Unknown

__all__ = ["layout_by_trial", "same_bits"]

_NOISE = 0.1
_FEW_ROUNDINGS = 100  # times the precision of a type
_FINE = 1e-4  # above it, rounding is too coarse to be told from a sample that acts on another

# Returns other values in place of some, or None for those that it leaves as they are.
_Change = Callable[[Tensor, torch.Generator], Tensor | None]


class _Outcome(NamedTuple):
    """What a function did with some values.

    Attributes:
        layouts: The layouts that fit.
        changed: Whether other samples gave another result.
        informed: Whether each replacement changed an argument.
    """

    layouts: list[Layout]
    changed: bool
    informed: bool


def layout_by_trial(
    call: Call, *, rounding: bool = False, first: list[Tensor] | None = None, with_noise: bool = True
) -> LayoutState:
    """Return where the samples are in a call's result, found by calling the function again.

    The values that the call had may hide what a function does: a mask of ones is the same for every sample. So it is
    tried with these and, once more, with noise on the floating-point numbers, truth values drawn at random and integers
    in another order. Not every function takes all of that: a mask that chooses as many entries of each sample must do
    so again, or the function fails or mixes samples. Then truth values and integers stay, but only for a result of
    floating-point numbers: these have gradients, and it is for gradients, of the call as it was, that samples must be
    kept apart.

    Args:
        call: A call of a function; all that is known of its arguments is known for sure.
        rounding: What is left of a sample may be rounded in another way, as when others share its products.
        first: What another call with the same values returned, if there was one.
        with_noise: Whether to try other values than those of the call, too; not needed of a function of a kind that
            was.

    Returns:
        The layout; None where the result is the same for every sample and has no gradient; `Unknown` where samples are
        mixed, or where several layouts fit.
    """
    unknown = Unknown(f"`{call.name}` is not known to keep samples apart")
    if call.samples < 2 or "out" in call.kwargs or not call.activations():
        return unknown
    if call.name == "as_strided" and not all(_is_plain(value) for value, _ in call.activations()):
        return unknown  # it sees the memory, which the other samples have in a plain tensor of their own
    with torch.no_grad():
        given = _tried(call, list(_candidates(call)), (), rounding, first)
        if given is None or (given.changed and not given.layouts):
            return unknown
        noises = [(_with_noise, _drawn, _reordered), (_with_noise, _drawn), (_with_noise,)]
        outcomes = (
            _tried(call, given.layouts, n, rounding) for n in noises if len(n) > 1 or call.result.is_floating_point()
        )
        noisy = next((o for o in outcomes if o and (o.layouts or not o.changed)), None) if with_noise else given
    if noisy is None:
        return unknown
    if not given.changed and not noisy.changed:
        has_gradient = call.result.requires_grad or any(value.requires_grad for value, _ in call.tensors)
        return None if given.informed and noisy.informed and not has_gradient else unknown
    return noisy.layouts[0] if len(noisy.layouts) == 1 else unknown


def _tried(
    call: Call,
    candidates: list[Layout],
    changes: Sequence[_Change],
    rounding: bool,
    first: list[Tensor] | None = None,
) -> _Outcome | None:
    """Try a function with values changed in some ways; return None if it does not take them."""
    values = {id(value): _base(value, layout, changes) for value, layout in call.activations()}
    layouts = {id(value): layout for value, layout in call.activations()}
    first, changed, informed = first or _results(call, values), False, True
    if first is None:
        return None
    for sources in _replacements(call.samples, call.result.device):
        replaced = {key: _replaced(value, layouts[key], sources) for key, value in values.items()}
        informed &= any(not same_bits(replaced[key], values[key]) for key in values)
        found = _results(call, replaced)
        if found is None:
            return None
        changed |= not all(map(same_bits, first, found))
        candidates = [
            layout
            for layout in candidates
            if all(_fits(before, after, layout, sources, rounding) for before, after in zip(first, found, strict=True))
        ]
    return _Outcome(candidates, changed, informed)


def _candidates(call: Call) -> Iterator[Layout]:
    """Yield every layout that the shape of the result allows."""
    for dim, size in enumerate(call.result.shape):
        if size and size % call.samples == 0:
            blocks = size // call.samples
            yield from (Layout(dim, inner) for inner in range(1, blocks + 1) if blocks % inner == 0)


def _replacements(samples: int, device: torch.device) -> Iterator[Tensor]:
    """Yield which sample takes the place of each, [N], so that of any two each stays once while the other goes.

    Each sample goes in half of the rounds, and no two in the same ones: so neither goes wherever the other does. These
    are the fewest rounds that will do (Sperner): 6 for 16 samples.
    """
    rounds = next(n for n in itertools.count(1) if math.comb(n, n // 2) >= samples)
    chosen = itertools.islice(itertools.combinations(range(rounds), rounds // 2), samples)
    goes = torch.zeros(rounds, samples, dtype=torch.bool)
    for sample, of_sample in enumerate(chosen):
        goes[list(of_sample), sample] = True
    numbers = torch.arange(samples, device=device)
    for of_round in goes.to(device):
        yield torch.where(of_round, (numbers + 1) % samples, numbers)


def _base(value: Tensor, layout: Layout, changes: Sequence[_Change]) -> Tensor:
    """Return values to start from: those of the call, or others of the same kind."""
    generator = torch.Generator(device="cpu").manual_seed(value.dim() + 10 * layout.dim)
    kept = value.detach().clone()
    return next((made for change in changes if (made := change(kept, generator)) is not None), kept)


def _with_noise(value: Tensor, generator: torch.Generator) -> Tensor | None:
    """Return floating-point numbers with noise."""
    if not value.is_floating_point():
        return None
    one, other = (torch.randn(value.shape, generator=generator).to(value) * _NOISE for _ in range(2))
    return value * (1 + one) + other


def _drawn(value: Tensor, generator: torch.Generator) -> Tensor | None:
    """Return other truth values."""
    if value.dtype is not torch.bool:
        return None
    return (torch.rand(value.shape, generator=generator) < 0.5).to(value.device)


def _reordered(value: Tensor, generator: torch.Generator) -> Tensor | None:
    """Return integers in another order: an index stays inside what it points to."""
    if value.is_floating_point() or value.is_complex():
        return None
    order = torch.randperm(value.numel(), generator=generator).to(value.device)
    return value.flatten()[order].view(value.shape)


def _is_plain(value: Tensor) -> bool:
    """Whether a tensor lies in memory as a copy of it would."""
    return value.storage_offset() == 0 and value.stride() == torch.empty_like(value, device="meta").stride()


def _replaced(value: Tensor, layout: Layout, sources: Tensor) -> Tensor:
    split = value.unflatten(layout.dim, (-1, len(sources), layout.inner))
    replaced = split.index_select(layout.dim + 1, sources).flatten(layout.dim, layout.dim + 2)
    return torch.empty_like(value).copy_(replaced)  # as it lies in memory, too


def _results(call: Call, values: dict[int, Tensor]) -> list[Tensor] | None:
    """Call the function with other values; return its results of the shape looked at, or None if it fails."""

    def value_of(tensor: Tensor) -> Tensor:
        known = values.get(id(tensor))
        return tensor.detach() if known is None else known

    args, kwargs = pytree.tree_map_only(Tensor, value_of, (tuple(call.args), call.kwargs))
    in_place = writes(call.function) and args and isinstance(args[0], Tensor)
    if in_place:
        args = (args[0].clone(), *args[1:])
    try:
        result = call.function(*args, **kwargs)
    except Exception:  # noqa: BLE001 - whatever it does with other samples: then it does not keep them apart
        return None
    outputs = [t for t in tensors_in(args[0] if in_place else result) if t.shape == call.result.shape]
    return outputs or None


def _fits(before: Tensor, after: Tensor, layout: Layout, sources: Tensor, rounding: bool) -> bool:
    """Whether samples that stayed have the same bits, and the others those of their replacements but for rounding."""
    shape, dim = (-1, len(sources), layout.inner), layout.dim + 1
    was, now = before.unflatten(layout.dim, shape), after.unflatten(layout.dim, shape)
    stays = sources == torch.arange(len(sources), device=sources.device)
    kept, moved = stays.nonzero()[:, 0], (~stays).nonzero()[:, 0]
    stayed, found = (now.index_select(dim, samples) for samples in (kept, moved))
    as_before = was.index_select(dim, kept)
    if not same_bits(as_before, stayed):
        epsilon = _FEW_ROUNDINGS * torch.finfo(before.dtype).eps if before.is_floating_point() else 0.0
        if not rounding or epsilon > _FINE or not _close(as_before, stayed, epsilon):
            return False
    expected = was.index_select(dim, sources[moved])
    if not expected.is_floating_point():
        return same_bits(expected, found)
    return _close(expected, found, torch.finfo(expected.dtype).eps ** 0.5)


def _close(expected: Tensor, found: Tensor, tolerance: float) -> bool:
    finite = expected[expected.isfinite()].abs()
    size = float(finite.max()) if finite.numel() else 0.0
    return torch.allclose(found, expected, rtol=tolerance, atol=tolerance * min(size, 1e30), equal_nan=True)


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal, and not a number at the same places."""
    if one.is_floating_point() or one.is_complex():
        return one.shape == other.shape and bool(((one == other) | (one.isnan() & other.isnan())).all())
    return torch.equal(one, other)
