"""Which function uses which parameter, during one forward and backward.

`Capture` is a torch function mode. While it is active it follows the samples through every function call
(see `fastforget.capture.following`) and, where a parameter is used in a way it knows, computes with the detached
parameter and taps the result: the gradient that arrives there in backward is handed to the fused kernels.
Autograd thus only runs the chain of input gradients; the weight-gradient work is replaced by the Fisher
kernels.

The parameters given to the model are leaves that require gradients. A use that is not recognised goes
through ordinary autograd and shows up as a gradient on its leaf: that is how it is found, so nothing is
silently skipped.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from fastforget.capture.checkpoints import KeepActivations
from fastforget.capture.following import follow, is_known, keeps_shape_and_place
from fastforget.capture.layout import Call, Layout, State, Unknown, tensors_in
from fastforget.capture.tensor_map import TensorMap
from fastforget.capture.uses import RECOGNISERS, Lookup, Use

__all__ = ["Capture"]


class _Tap(torch.autograd.Function):
    """Identity on ``output``, which may be a view or have no gradient yet; its backward hands it to ``deliver``."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, deliver: Callable[[Tensor], None], fresh: bool, _leaf: Tensor) -> Tensor:
        ctx.deliver = deliver
        if fresh and output._is_view():  # noqa: SLF001 - nothing public says it
            # Marked dirty, a view makes autograd copy the gradient three times (CopySlices). What it is a view of is
            # nobody else's: the same memory as a tensor of its own will do.
            return output.data
        ctx.mark_dirty(output)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        ctx.deliver(grads[0])
        return grads[0], None, None, None


class Capture(KeepActivations):
    """Follows samples and taps parameter uses while a model runs forward under ``with capture:``.

    Attributes:
        uses: How many uses of each parameter were recognised.
    """

    def __init__(self, leaves: dict[str, Tensor], samples: int, collect: Callable[..., None]) -> None:
        """Watch ``leaves`` (parameters by name); ``collect(use, grad, operands)`` is called in backward."""
        super().__init__()
        self.uses = dict.fromkeys(leaves, 0)
        self._listening = self._retain = False
        self._leaves = leaves
        self._names = {id(leaf): name for name, leaf in leaves.items()}
        self._detached = {id(leaf): leaf.detach() for leaf in leaves.values()}
        self._samples = samples
        self._collect = collect
        self._states = TensorMap[State]()
        self._lookups = TensorMap[Lookup]()
        # Whether a tensor was met that requires a gradient for another reason than one of the leaves.
        self._foreign = False

    @contextmanager
    def listening(self, *, retain: bool) -> Iterator[None]:
        """Let the uses hand over their gradients: not those of a backward that the model or the loss runs itself.

        Args:
            retain: Another backward will follow, which needs the operands of the uses again.
        """
        self._listening, self._retain = True, retain
        try:
            yield
        finally:
            self._listening = False

    def track(self, tensor: Tensor, layout: Layout) -> None:
        """Declare where the samples are in an input of the model."""
        self._states[tensor] = layout

    def state(self, value: Any) -> State:
        """Return what is known about a value: its layout, unknown, or None for sample-independent."""
        if not isinstance(value, Tensor) or id(value) in self._names:
            return None
        state = self._states.get(value)
        unseen = state is None and value.requires_grad and value not in self._states
        self._foreign |= unseen or (value.requires_grad and value.is_leaf)
        if unseen:
            return Unknown("a tensor comes from code that torch functions cannot see, such as TorchScript")
        return state

    def layout(self, value: Any) -> Layout | None:
        """Return the layout of a tensor that holds samples, else None."""
        state = self.state(value)
        return state if isinstance(state, Layout) else None

    def parameter(self, value: Any) -> tuple[str, Tensor] | None:
        """Return the name and leaf of a parameter, or of the parameter that ``value`` is a plain view of."""
        name = self._names.get(id(value))
        if name is not None:
            return name, value
        leaf = value._base if isinstance(value, Tensor) else None  # noqa: SLF001 - nothing public says it
        name = self._names.get(id(leaf))
        if leaf is None or name is None or value.dtype != leaf.dtype:
            return None
        return (name, leaf) if leaf.is_contiguous() and _injective(value) else None

    def detached(self, value: Any) -> Any:
        """Return a parameter without its gradient, anything else as it is."""
        known = self._detached.get(id(value))
        if known is not None:
            return known
        return value.detach() if self.parameter(value) else value

    def tap(self, output: Tensor, layout: Layout, uses: Sequence[Use], *, fresh: bool = False) -> Tensor:
        """Attach uses to a function's output, which holds samples as ``layout`` says.

        Args:
            output: What the function returned, on the autograd graph.
            layout: Where its samples are.
            uses: The uses of parameters that made it.
            fresh: Neither the caller nor autograd keeps the memory of the output, as with the view of a matrix that
                `F.linear` returns.

        Returns:
            The output to hand on in its place.
        """
        for use in uses:
            self.uses[use.name] += 1
            if use.partner:
                self.uses[use.partner.name] += 1
            deliver = self._delivery(use, output.shape)
            made = self._made(output, fresh=fresh)
            if made is None or made.grad_fn is None:
                result = _Tap.apply(output, deliver, fresh, self._leaves[use.name])  # type: ignore[no-untyped-call]
                assert isinstance(result, Tensor)  # noqa: S101 - for the type checker
                output = result
            else:
                made.grad_fn.register_prehook(lambda grads, to=deliver, place=made.output_nr: to(grads[place]))
        self._states[output] = layout
        return output

    def _made(self, output: Tensor, *, fresh: bool) -> Tensor | None:
        """Return what the graph has a node for, if backward is sure to come there: a hook is cheaper than a tap."""
        if self._foreign:  # backward only goes where leaves are
            return None
        if not output._is_view():  # noqa: SLF001 - nothing public says it
            return output
        # Written to later, a view gets another node; the matrix that a fresh one is a view of keeps its.
        base = output._base  # noqa: SLF001
        return base if fresh and base is not None and base.numel() == output.numel() else None

    def _delivery(self, use: Use, shape: torch.Size) -> Callable[[Tensor | None], None]:
        """What hands the gradient of a tapped output to the use, with its operands."""
        operands, use.operands = use.operands, ()
        versions = [operand._version for operand in operands]  # noqa: SLF001 - nothing public says it

        def deliver(grad: Tensor | None) -> None:
            nonlocal operands
            if grad is None or not self._listening:
                return
            if versions != [operand._version for operand in operands]:  # noqa: SLF001
                raise RuntimeError(
                    f"an operand of `{use.name}` has been modified by an inplace operation before its use in backward"
                )
            given = operands
            if not self._retain:
                operands = ()
            self._collect(use, grad.reshape(shape), given)

        return deliver

    def remember(self, rows: Tensor, lookup: Lookup) -> Tensor:
        """Note that ``rows``, the same for every sample, were looked up in a parameter."""
        self._states[rows] = None
        self._lookups[rows] = lookup
        return rows

    def lookup(self, value: Any) -> Lookup | None:
        """Return where a value was looked up, if it was and is the same for every sample."""
        found = self._lookups.get(value) if isinstance(value, Tensor) else None
        return found if found and found.version == value._version else None  # noqa: SLF001

    @property
    def samples(self) -> int:
        """The batch size N."""
        return self._samples

    def call(self, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Run one function; if it uses a parameter in a way that is known, with a tap on its result."""
        recognise = RECOGNISERS.get(func)
        if recognise is not None:
            result = recognise(self, func, *args, **kwargs)
            if result is not NotImplemented:
                return result
        if _composite(func):
            with self:
                return _opened(func)(*args, **kwargs)
        result = func(*args, **kwargs)
        if self.uses:  # with no leaves to watch, nobody asks where the samples are
            self._record(func, args, kwargs, result)
        return result

    def _record(self, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], result: Any) -> None:
        if not kwargs and args and keeps_shape_and_place(func, args, result):
            if id(result) not in self._names:
                self._states[result] = self.state(args[0])
            return
        if getattr(func, "__name__", "") == "__setitem__":
            result = args[0]
        outputs = result if isinstance(result, (tuple, list)) else (result,)
        arguments = [(value, self.state(value)) for value in tensors_in(args, kwargs)]
        by_shape: dict[torch.Size, State] = {}
        for output in outputs:
            if not isinstance(output, Tensor):
                continue
            if output.shape not in by_shape:
                call = Call(args, kwargs, output, arguments, self.state, self._samples, func)
                by_shape[output.shape] = follow(func, call)
            if id(output) not in self._names:
                self._states[output] = by_shape[output.shape]


def _injective(view: Tensor) -> bool:
    """Whether no two elements of a view share memory (an expanded view is summed over before the square)."""
    reach = 0
    for stride, size in sorted(zip(view.stride(), view.shape, strict=True)):
        if size > 1 and stride <= reach:
            return False
        reach += stride * (size - 1)
    return True


def _no_override(*_args: Any) -> bool:
    return False


@functools.cache
def _composite(func: Callable[..., Any]) -> bool:
    """Whether to look inside a function, which calls others in Python, instead of at the whole."""
    return isinstance(func, FunctionType) and "handle_torch_function" in func.__globals__ and not is_known(func)


@functools.cache
def _opened(func: FunctionType) -> Callable[..., Any]:
    """Return the function without its own override check, so that the calls it makes are seen one by one."""
    checks = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")
    opened = FunctionType(
        func.__code__,
        {**func.__globals__, **dict.fromkeys(checks, _no_override)},
        func.__name__,
        func.__defaults__,
        func.__closure__,
    )
    opened.__kwdefaults__ = func.__kwdefaults__
    return opened
