"""What is known of a model while it runs: its parameters, the layouts of its activations, the uses of parameters."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastforget.fisher.capture.layout import Layout, LayoutState, Rows, Unknown
from fastforget.fisher.capture.memory import is_injective, is_slice
from fastforget.fisher.capture.tap import Deliver, tap
from fastforget.fisher.capture.tensor_map import TensorMap
from fastforget.fisher.capture.use import Accumulate, AccumulateBoth, Lookup, Standardised, Use, View

__all__ = ["BeforeWrite", "Computed", "LayoutsNeededError", "Watch", "WatchedParameter"]

Collect = Callable[[Use, Tensor], None]


class LayoutsNeededError(Exception):
    """A recogniser needs to know where the samples are, in a run in which nobody follows them."""


class WatchedParameter(NamedTuple):
    """A parameter that is watched."""

    name: str
    leaf: Tensor


class Computed(NamedTuple):
    """A tensor that was computed from parameters alone, such as a standardised weight.

    Attributes:
        value: The tensor, on the autograd graph.
        version: Of its values when it was used.
        sources: Names of the watched parameters behind it.
    """

    value: Tensor
    version: int
    sources: frozenset[str]


class BeforeWrite(NamedTuple):
    """What is known of a tensor that is about to be written to, and of the tensor that it is a view of."""

    state: LayoutState
    base: LayoutState


class _Known(NamedTuple):
    """What is known of a tensor, as long as nobody writes to its memory."""

    state: LayoutState
    version: int


_UNSEEN = Unknown("a tensor comes from code that torch functions cannot see, such as TorchScript")
_CHANGED = Unknown("a tensor was written to through another one")


class _Listener(NamedTuple):
    collect: Collect
    retain: bool


class Watch:
    """The parameters that are watched, and what the run of a model has shown so far.

    Attributes:
        samples: The batch size N.
        use_counts: How many uses of each parameter were recognised, by name; empty if none is watched.
        used: Names of the parameters in the order of their uses.
        distrusted: Names of those that were used where nobody followed the samples any more.
        computed: Tensors that were computed from parameters alone and used like parameters, by name.
        standardised: Which tensors are standardised weights.
        took_rows: Whether rows were taken in an order of their own.
        follows: Whether the layouts of activations are noted: with parameters to watch, or if somebody asks.
    """

    def __init__(self, leaves: Mapping[str, Tensor], samples: int) -> None:
        """Watch parameters by name: leaves that require gradients."""
        self.samples = samples
        self.use_counts: dict[str, int] = dict.fromkeys(leaves, 0)
        self.used: list[str] = []
        self.distrusted: set[str] = set()
        self.computed: dict[str, Computed] = {}
        self.took_rows: bool = False
        self.follows: bool = bool(leaves)
        self._leaves = leaves
        self._parameters = {id(leaf): WatchedParameter(name, leaf) for name, leaf in leaves.items()}
        self._detached = {id(leaf): leaf.detach() for leaf in leaves.values()}
        self._states = TensorMap[_Known]()
        self._lookups = TensorMap[Lookup]()
        self.standardised: TensorMap[Standardised] = TensorMap()
        self._computed_names, self._numbers = TensorMap[str](), itertools.count()
        self._listener: _Listener | None = None
        # Whether a tensor was met that requires a gradient for another reason than a watched parameter.
        self._met_other_leaf = False

    # Activations

    def record(self, tensor: Tensor, state: LayoutState) -> None:
        """Note what is known of a tensor's layout; a watched parameter stays the same for every sample."""
        self.took_rows |= isinstance(state, Rows)
        if id(tensor) not in self._parameters:
            self._states[tensor] = _Known(state, version_of(tensor))

    def layout_state(self, value: Any) -> LayoutState:
        """Return what is known of a value's layout; None if it is the same for every sample, or no tensor."""
        if not isinstance(value, Tensor) or id(value) in self._parameters:
            return None
        known = self._states.get(value)
        self._met_other_leaf |= value.requires_grad and (known is None or value.is_leaf)
        if known is None:
            return _UNSEEN if value.requires_grad else None
        return known.state if known.version == version_of(value) else _CHANGED

    def before_write(self, tensor: Tensor) -> BeforeWrite:
        """Return what `record_write` must know of a tensor before it is written to."""
        base = tensor._base  # noqa: SLF001 - nothing public says it
        return BeforeWrite(self.layout_state(tensor), None if base is None else self.layout_state(base))

    def record_write(self, tensor: Tensor, before: BeforeWrite, after: LayoutState) -> None:
        """Note what is known of a tensor that was written to; other tensors on its memory are unknown from then on.

        Args:
            tensor: The tensor.
            before: What was known before.
            after: What is known of it now.
        """
        self.record(tensor, after)
        base = tensor._base  # noqa: SLF001
        if base is None or base not in self._states:
            return
        if before.state == after:
            self.record(base, before.base)  # a part of it was written to, and is what it was
        elif before.base is None and isinstance(after, Layout) and is_slice(tensor, base, after.dim):
            self.record(base, after)  # what is the same for every sample, and a part that holds them

    def layout(self, value: Any) -> Layout | None:
        """Return the layout of a tensor that holds samples, else None."""
        state = self.layout_state(value)
        return state if isinstance(state, Layout) else None

    def layout_of_features(self, value: Any) -> Layout | Rows | None:
        """Return where the samples of a tensor are whose last dimension is that of the features; None for another."""
        state = self.layout_state(value)
        if isinstance(state, Rows):
            return state if value.dim() == 2 else None
        return state if isinstance(state, Layout) and state.dim < value.dim() - 1 else None

    def is_same_for_every_sample(self, value: Any) -> bool:
        """Return whether a tensor that a function computes with does not depend on the samples.

        Raises:
            LayoutsNeededError: Nobody follows the samples in this run.
        """
        if not self.follows:
            raise LayoutsNeededError
        return self.layout_state(value) is None

    def layout_of_planes(self, value: Any, dims: int | None = None) -> Layout | None:
        """Return the layout of [N * frames, C, *space] with the samples outermost; None for anything else.

        Args:
            value: Any argument of a function.
            dims: The number of dimensions of ``space``; any if None.

        Returns:
            The layout, whose ``inner`` is the number of frames.
        """
        layout = self.layout(value)
        if layout is None or layout.dim != 0 or value.shape[0] != self.samples * layout.inner:
            return None
        return layout if dims is None or value.dim() == dims + 2 else None

    # Parameters

    def parameter(self, value: Any) -> WatchedParameter | None:
        """Return the parameter that a value is, that it is a plain view of, or that stands for it.

        Args:
            value: Anything.

        Returns:
            The parameter; for a tensor that was computed from parameters alone one of its own, with a name that no
            parameter of a module has; None for anything else.
        """
        watched = self._parameters.get(id(value))
        if watched is not None or not isinstance(value, Tensor):
            return watched
        watched = self._parameters.get(id(value._base))  # noqa: SLF001 - nothing public says it
        is_whole = watched is not None and value.dtype == watched.leaf.dtype and watched.leaf.is_contiguous()
        if is_whole and is_injective(value):
            return watched
        return self._computed_parameter(value)

    def _computed_parameter(self, value: Tensor) -> WatchedParameter | None:
        if not self._leaves or not value.requires_grad or value.grad_fn is None or not value.is_floating_point():
            return None
        if self._states.get(value) != _Known(None, version_of(value)):
            return None
        name = self._computed_names.get(value)
        if name is None:
            name = self._computed_names[value] = f".{next(self._numbers)}"
        return WatchedParameter(name, value)

    def _note_computed(self, watched: WatchedParameter) -> None:
        """Note that a tensor computed from parameters is used like one."""
        if watched.name not in self.use_counts:
            value = watched.leaf
            names = {id(leaf): name for name, leaf in self._leaves.items()}
            sources = frozenset(names[id(leaf)] for leaf in _leaves_behind(value) if id(leaf) in names)
            self.computed[watched.name] = Computed(value, value._version, sources)  # noqa: SLF001
            self.use_counts[watched.name] = 0

    def are_parametric(self, *values: Any) -> bool:
        """Whether one of the values is a parameter, and none depends on the sample."""
        return any(map(self.parameter, values)) and all(self.layout_state(value) is None for value in values)

    def detached(self, value: Any) -> Any:
        """Return a parameter without its gradient, anything else as it is."""
        detached = self._detached.get(id(value))
        if detached is not None:
            return detached
        return value.detach() if self.parameter(value) else value

    def note_lookup(self, rows: Tensor, lookup: Lookup) -> Tensor:
        """Note that ``rows``, the same for every sample, were looked up in a parameter, and return them."""
        self.record(rows, None)
        self._lookups[rows] = lookup
        return rows

    def lookup(self, value: Any) -> Lookup | None:
        """Return where a value was looked up, if it was and is the same for every sample."""
        lookup = self._lookups.get(value) if isinstance(value, Tensor) else None
        return lookup if lookup and lookup.version == value._version else None  # noqa: SLF001

    # Uses

    def use_of(
        self,
        parameter: Any,
        accumulate: Accumulate,
        *operands: Tensor,
        partner: Use | None = None,
        accumulate_both: AccumulateBoth | None = None,
        overwrites: bool = False,
    ) -> Use:
        """Describe the use of a parameter, or of a plain view of one; see `Use` for the rest."""
        watched = self.parameter(parameter)
        if watched is None:
            raise TypeError("a use must be of a watched parameter")
        self._note_computed(watched)
        view = None
        if parameter is not watched.leaf:
            offset = parameter.storage_offset() - watched.leaf.storage_offset()
            view = View(tuple(parameter.shape), parameter.stride(), offset)
        return Use(watched.name, view, accumulate, operands, partner, accumulate_both, overwrites)

    def tap(self, output: Tensor, layout: Layout | Rows, uses: Sequence[Use], *, fresh: bool = False) -> Tensor:
        """Attach uses to a function's output.

        Args:
            output: What the function returned, on the autograd graph.
            layout: Where its samples are.
            uses: The uses of parameters that made it.
            fresh: Neither the caller nor autograd keeps the memory of the output.

        Returns:
            The output to hand on in its place.
        """
        for use in uses:
            for name in (use.name, use.partner.name) if use.partner else (use.name,):
                self.use_counts[name] += 1
                self.used.append(name)
            # Backward only goes where leaves are, and of other leaves nobody asks for a gradient.
            deliver, leaf = self._delivery(use, output.shape), next(iter(self._leaves.values()))
            output = tap(output, deliver, leaf, fresh=fresh, surely_reached=not self._met_other_leaf)
        self.record(output, layout)
        return output

    def distrust(self, names: Iterable[str]) -> None:
        """Leave parameters, or what some uses were computed from, to another path than that of the kernels."""
        for name in names:
            self.distrusted |= self.computed[name].sources if name in self.computed else {name}

    @contextmanager
    def listening(self, collect: Collect, *, retain: bool) -> Iterator[None]:
        """Hand over the gradients of uses: not those of a backward that the model or the loss runs itself.

        Args:
            collect: Is given each use, with the gradient that arrives there.
            retain: Another backward will follow, which needs the operands of the uses again.
        """
        self._listener = _Listener(collect, retain)
        try:
            yield
        finally:
            self._listener = None

    def _delivery(self, use: Use, shape: torch.Size) -> Deliver:
        """Return what hands over the gradient of a tapped output."""
        pending = [use]  # until it is handed over, and its operands can be freed
        versions = [operand._version for operand in use.operands]  # noqa: SLF001 - nothing public says it

        def deliver(grad: Tensor | None) -> None:
            listener = self._listener
            if grad is None or listener is None:
                return
            reached = pending[0] if listener.retain else pending.pop()
            if versions != [operand._version for operand in reached.operands]:  # noqa: SLF001
                raise RuntimeError(
                    f"an operand of `{reached.name}` has been modified by an inplace operation before its use in "
                    "backward"
                )
            listener.collect(reached, grad.reshape(shape))

        return deliver


def version_of(tensor: Tensor) -> int:
    """Return how often a tensor, or another one on its memory, was written to."""
    return 0 if tensor.is_inference() else tensor._version  # noqa: SLF001 - nothing public says it


def _leaves_behind(value: Tensor) -> list[Tensor]:
    """Return the leaves that a tensor was computed from."""
    leaves, seen, waiting = [], set(), [value.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if isinstance(variable, Tensor):
            leaves.append(variable)
        waiting += [before for before, _ in node.next_functions]
    return leaves
