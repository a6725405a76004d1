"""Where the samples of a batch are inside an activation, followed from function to function.

The Fisher of a parameter needs to know which entries of an activation belong to which sample. That is
not always dimension 0: ``nn.MultiheadAttention`` computes on [T, N, E], windowed attention on
[N * windows, T, E], many language models on [N * T, E]. A `Layout` says where the samples are; `follow`
derives the layout of a function's results from those of its arguments. A function that is not listed,
or that mixes samples, gives `Unknown`, never a guess.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Layout", "Unknown", "follow", "is_known", "samples_first", "tensors_in"]


class Layout(NamedTuple):
    """Samples lie along ``dim``: entry i of that dimension belongs to sample ``i // inner % N``."""

    dim: int
    inner: int = 1


@dataclass(frozen=True)
class Unknown:
    """Nobody knows where the samples are, because of ``reason``."""

    reason: str


State = Layout | Unknown | None  # None: the same for every sample
Read = Callable[[Any], State]  # the state of an argument
Rule = Callable[[str, "Call"], State]


@dataclass
class Call:
    """One function call: its arguments, the tensors among them with their states, its result, and N."""

    args: Sequence[Any]
    kwargs: dict[str, Any]
    result: Tensor
    tensors: Sequence[tuple[Tensor, State]]
    read: Read
    samples: int
    function: Callable[..., Any]

    def argument(self, position: int, *names: str, default: Any = None) -> Any:
        """Return an argument given by position or by one of its names."""
        if position < len(self.args):
            return self.args[position]
        return next((self.kwargs[name] for name in names if name in self.kwargs), default)

    def tracked(self) -> list[tuple[Tensor, Layout]]:
        """Return the tensor arguments that hold samples, with their layouts."""
        return [(value, state) for value, state in self.tensors if isinstance(state, Layout)]


def samples_first(tensor: Tensor, layout: Layout, samples: int) -> Tensor:
    """View a tensor as [N, inner and outer entries of its sample dimension, other dimensions …]."""
    if layout.dim == 0 and layout.inner == 1 and tensor.shape[0] == samples:
        return tensor.unsqueeze(1)
    split = tensor.unflatten(layout.dim, (-1, samples, layout.inner))
    moved: Tensor = split.movedim((layout.dim + 1, layout.dim, layout.dim + 2), (0, 1, 2))
    return moved.flatten(1, 2)


def follow(function: Callable[..., Any], call: Call) -> State:
    """Return the state of ``call.result``, one tensor that ``function`` returned."""
    known = [state for _, state in call.tensors if state is not None]
    if not known:
        return None
    for state in known:
        if isinstance(state, Unknown):
            return state
    name, rule = _RULES.get(function, (getattr(function, "__name__", str(function)), None))
    if rule is _constant:
        return None
    found = rule(name, call) if rule else None
    if isinstance(found, Layout) and call.result.shape[found.dim] % (call.samples * found.inner):
        found = None
    return found or Unknown(f"`{name}` is not known to keep samples apart")


def is_known(function: Callable[..., Any]) -> bool:
    """Whether there is a rule for a function."""
    return function in _RULES


def tensors_in(*values: Any) -> list[Tensor]:
    """Return the tensors among values, and in the tuples, lists and dicts among them, in order."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (tuple, list)):
            found += tensors_in(*value)
        elif isinstance(value, dict) and value:
            found += tensors_in(*value.values())
    return found


def _constant(_name: str, _call: Call) -> State:
    return None


def _aligned(_name: str, call: Call) -> State:
    """Broadcasting from the right: element-wise functions, expand, repeat."""
    found: State = None
    for value, layout in call.tracked():
        dim = call.result.dim() - (value.dim() - layout.dim)
        here = Layout(dim, layout.inner)
        if dim < 0 or call.result.shape[dim] != value.shape[layout.dim] or found not in (None, here):
            return None
        found = here
    return found


def _reshaped(_name: str, call: Call) -> State:
    """Row-major reshapes: the samples' period in the flat order stays what it was."""
    value = call.argument(0, "input")  # view_as has a second tensor, of which only the shape counts
    layout = call.read(value)
    if not isinstance(layout, Layout) or call.result.numel() != value.numel() or call.result.dtype != value.dtype:
        return None
    period = layout.inner * math.prod(value.shape[layout.dim + 1 :])
    for dim, size in enumerate(call.result.shape):
        suffix = math.prod(call.result.shape[dim + 1 :])
        if suffix and period % suffix == 0 and size % (call.samples * (period // suffix)) == 0:
            return Layout(dim, period // suffix)
    return None


def _permuted(_name: str, call: Call) -> State:
    """Permutations: see where the sample dimension goes by permuting a tensor of distinct sizes."""
    value, layout = call.tracked()[0]
    if not call.args or call.args[0] is not value:
        return None
    try:
        order = _order_of(call.function, value.dim(), call.args[1:], tuple(call.kwargs.items()))
    except TypeError:  # an argument that cannot be hashed, such as a list of dimensions
        order = _order_of.__wrapped__(call.function, value.dim(), call.args[1:], tuple(call.kwargs.items()))
    return Layout(order.index(layout.dim), layout.inner)


@functools.lru_cache(maxsize=256)
def _order_of(function: Callable[..., Any], dims: int, args: Sequence[Any], kwargs: Sequence[Any]) -> tuple[int, ...]:
    """Which dimension of its argument each dimension of a permutation's result is."""
    probe = torch.empty([dim + 2 for dim in range(dims)], device="meta")
    return tuple(size - 2 for size in function(probe, *args, **dict(kwargs)).shape)


def _dims(value: Any, ndim: int) -> list[int] | None:
    if value is None:
        return None
    if isinstance(value, int):
        value = (value,)
    return [dim % ndim for dim in value] if all(isinstance(dim, int) for dim in value) else None


def _reduced(name: str, call: Call) -> State:
    """Reductions over other dimensions than the samples'."""
    value, layout = call.tracked()[0]
    rest = call.args[1:]
    # x.sum(1, 2) and x.sum((1, 2)) are the same; p of norm comes before its dim
    given = call.argument(2 if name == "norm" else 1, "dim", "axis")
    if name not in ("norm",) and len(rest) > 1 and all(type(dim) is int for dim in rest):
        given = tuple(rest)
    dims = _dims(given, value.dim())
    if not dims or layout.dim in dims or len(call.tracked()) > 1:
        return None
    if call.result.dim() == value.dim():
        return layout
    return Layout(layout.dim - sum(dim < layout.dim for dim in dims), layout.inner)


def _along(name: str, call: Call) -> State:
    """Functions that mix along a dimension and keep the shape: softmax, cumsum, flip, roll."""
    value, layout = call.tracked()[0]
    given = call.argument(2 if name == "roll" else 1, "dim", "dims")
    dims = _dims(call.args[1:] if name == "flip" and isinstance(given, int) else given, value.dim())
    return layout if dims and layout.dim not in dims and len(call.tracked()) == 1 else None


def _selected(_name: str, call: Call) -> State:
    """Unbind and select: one dimension, not the samples', disappears."""
    value, layout = call.tracked()[0]
    dims = _dims(call.argument(1, "dim", default=0), value.dim())
    if not dims or layout.dim in dims:
        return None
    return Layout(layout.dim - (dims[0] < layout.dim), layout.inner)


def _narrowed(_name: str, call: Call) -> State:
    """chunk, split, narrow, index_select along another dimension than the samples'."""
    value, layout = call.tracked()[0]
    position = 1 if _name in ("narrow", "index_select") else 2
    dims = _dims(call.argument(position, "dim", default=0), value.dim())
    return layout if dims and layout.dim not in dims and len(call.tracked()) == 1 else None


def _padded(_name: str, call: Call) -> State:
    value, layout = call.tracked()[0]
    reach = len(call.argument(1, "pad")) // 2
    return layout if layout.dim < value.dim() - reach else None


def _concatenated(_name: str, call: Call) -> State:
    tensors = call.argument(0, "tensors")
    layouts = {layout for _, layout in call.tracked()}
    dims = _dims(call.argument(1, "dim", "axis", default=0), call.result.dim())
    if len(layouts) != 1 or not dims or any(tensor.dim() != tensors[0].dim() for tensor in tensors):
        return None
    (layout,) = layouts
    if _name == "stack":
        return Layout(layout.dim + (dims[0] <= layout.dim), layout.inner)
    return layout if layout.dim not in dims else None


def _plain_index(item: Any) -> bool:
    """Whether an index consumes one dimension, or none if it is None or an ellipsis: no masks, no nested lists."""
    if isinstance(item, Tensor):
        return item.dtype not in (torch.bool, torch.uint8)
    if isinstance(item, list):
        return all(type(entry) is int for entry in item)
    return item is None or item is Ellipsis or type(item) is int or isinstance(item, slice)


def _indexed(_name: str, call: Call) -> State:
    """x[...] with the sample dimension taken whole; at most one index tensor, the same for all samples."""
    value, index = call.args[0], call.args[1]
    layout = call.read(value)
    index = index if isinstance(index, tuple) else (index,)
    if not isinstance(layout, Layout) or len(call.tracked()) != 1:
        return None
    if not all(_plain_index(item) for item in index):
        return None
    consumed = sum(item is not None and item is not Ellipsis for item in index)
    arrays = [item for item in index if isinstance(item, (Tensor, list))]
    # an integer beside an index array counts as one, and numpy's rules then may move dimensions
    if len(arrays) > 1 or (arrays and any(isinstance(item, int) for item in index)):
        return None
    source = target = 0
    for item in index if any(item is Ellipsis for item in index) else (*index, Ellipsis):
        if item is Ellipsis:
            skipped = value.dim() - consumed
            if source <= layout.dim < source + skipped:
                return Layout(target + layout.dim - source, layout.inner)
            source, target = source + skipped, target + skipped
        elif item is None:
            target += 1
        else:
            if source == layout.dim:
                whole = isinstance(item, slice) and item == slice(None)
                return Layout(target, layout.inner) if whole else None
            source += 1
            target += item.dim() if isinstance(item, Tensor) else int(not isinstance(item, int))
    return None


def _assigned(_name: str, call: Call) -> State:
    """x[...] = value: what is written must be laid out like the place it is written to."""
    target, index, value = call.args
    layout, written = call.read(target), call.read(value)
    if not isinstance(layout, Layout) or any(isinstance(call.read(i), Layout) for i in tensors_in(index)):
        return None
    place = target[index]
    tensors = [(value, call.read(value)) for value in tensors_in(target, index)]
    view = Call((target, index), {}, place, tensors, call.read, call.samples, call.function)
    expected = _indexed("__getitem__", view)
    if not isinstance(expected, Layout) or written is None:
        return layout if isinstance(expected, Layout) else None
    dim = place.dim() - (value.dim() - written.dim) if isinstance(written, Layout) else -1
    return layout if expected == Layout(dim, getattr(written, "inner", 0)) else None


def _independent(name: str, call: Call) -> State:
    """Functions on [N, C, *space] that treat the entries of dimension 0 independently."""
    value = call.argument(0, "input")
    layout = call.read(value)
    rank = {"1d": 3, "2d": 4, "3d": 5}.get(name[-2:])
    if not isinstance(layout, Layout) or layout.dim != 0 or len(call.tracked()) != 1:
        return None
    return layout if rank in (None, value.dim()) else None


def _trailing(name: str, call: Call) -> State:
    """Functions that mix the last dimensions only: linear, layer_norm, rms_norm, attention."""
    value, layout = call.tracked()[0]
    if name == "scaled_dot_product_attention":
        if any(state != layout or other.dim() != value.dim() for other, state in call.tracked()):
            return None
    elif len(call.tracked()) > 1 or value is not call.argument(0, "input"):
        return None
    mixed = {"linear": 1, "scaled_dot_product_attention": 2}.get(name)
    if mixed is None:
        mixed = len(call.argument(1, "normalized_shape"))
    kept = layout.dim < value.dim() - mixed and call.result.shape[layout.dim] == value.shape[layout.dim]
    return layout if kept else None


def _embedded(_name: str, call: Call) -> State:
    return call.read(call.argument(0, "input")) if len(call.tracked()) == 1 else None


def _multiplied(name: str, call: Call) -> State:
    """matmul, bmm, mm, addmm, baddbmm: the contracted dimensions must not hold the samples."""
    first = 1 if name in ("addmm", "baddbmm") else 0
    if name in ("addmm", "baddbmm") and call.read(call.args[0]) is not None:
        return None
    a, b = call.argument(first, "input", "mat1", "batch1"), call.argument(first + 1, "mat2", "other", "batch2")
    if min(a.dim(), b.dim()) < 2:
        return None
    found: State = None
    for value, allowed_row in ((a, 2), (b, 1)):
        layout = call.read(value)
        if not isinstance(layout, Layout):
            continue
        right = value.dim() - layout.dim
        if right < 3 and right != allowed_row:
            return None
        here = Layout(call.result.dim() - right, layout.inner)
        if found not in (None, here):
            return None
        found = here
    return found


def _einsum(_name: str, call: Call) -> State:
    equation, *operands = call.args
    if not isinstance(equation, str) or "." in equation or "->" not in equation:
        return None
    if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
        operands = list(operands[0])
    inputs, output = equation.replace(" ", "").split("->")
    found = set()
    for letters, operand in zip(inputs.split(","), operands, strict=True):
        layout = call.read(operand)
        if isinstance(layout, Layout):
            found.add((letters[layout.dim], layout.inner))
    if len(found) != 1:
        return None
    ((letter, inner),) = found
    return Layout(output.index(letter), inner) if letter in output else None


_NAMES: dict[Rule, str] = {
    _constant: "new_zeros new_ones new_full new_empty new_tensor",
    _aligned: "zeros_like ones_like full_like empty_like rand_like randn_like "
    "add sub mul div true_divide floor_divide remainder pow rsub neg abs sign exp expm1 exp2 log log1p log2 "
    "log10 sqrt rsqrt square reciprocal sin cos tan tanh atan asin acos sinh cosh sigmoid erf erfc relu relu6 gelu "
    "silu mish elu selu celu leaky_relu hardswish hardsigmoid hardtanh hardshrink softplus softsign softshrink "
    "tanhshrink logsigmoid threshold prelu clamp clip clamp_min clamp_max minimum maximum where lerp addcmul addcdiv "
    "masked_fill floor ceil round trunc frac nan_to_num isnan isinf isfinite logical_not logical_and logical_or "
    "bitwise_and bitwise_or bitwise_not eq ne lt le gt ge copy_ dropout dropout1d dropout2d dropout3d alpha_dropout "
    "feature_alpha_dropout feature_dropout clone contiguous detach to float double half bfloat16 long int bool type "
    "type_as requires_grad_ expand expand_as broadcast_to repeat logit digamma lgamma atan2 fill_ zero_ "
    "__rsub__ __rpow__ __rdiv__ __rtruediv__ __rfloordiv__ __rmod__ __and__ __or__ __invert__ xlogy heaviside",
    _reshaped: "view reshape flatten unflatten squeeze unsqueeze view_as reshape_as ravel",
    _permuted: "permute transpose movedim moveaxis swapaxes swapdims t adjoint T mT",
    _reduced: "sum mean amax amin max min var std prod logsumexp argmax argmin any all norm nansum nanmean median "
    "var_mean std_mean aminmax",
    _along: "softmax log_softmax softmin cumsum cumprod flip roll sort",
    _selected: "unbind select",
    _narrowed: "chunk split split_with_sizes tensor_split narrow index_select",
    _padded: "pad",
    _concatenated: "cat concat concatenate stack",
    _indexed: "__getitem__",
    _assigned: "__setitem__",
    _independent: "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d max_pool1d max_pool2d "
    "max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d "
    "adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d lp_pool1d lp_pool2d max_pool1d_with_indices "
    "max_pool2d_with_indices max_pool3d_with_indices interpolate upsample batch_norm group_norm instance_norm "
    "pixel_shuffle pixel_unshuffle channel_shuffle fold local_response_norm",
    _trailing: "linear layer_norm rms_norm scaled_dot_product_attention",
    _embedded: "embedding one_hot",
    _multiplied: "matmul bmm mm addmm baddbmm __matmul__ __rmatmul__",
    _einsum: "einsum",
}


def _named(name: str) -> Iterable[Callable[..., Any]]:
    """Every object under which torch offers a function, its in-place form and its property getter."""
    for owner in (torch, torch.Tensor, F, torch._C._nn):  # noqa: SLF001 - where F's functions come from
        for spelling in {name, f"{name}_" if not name.startswith("__") else name}:
            found = getattr(owner, spelling, None)
            if callable(found):
                yield found
            elif found is not None and hasattr(found, "__get__"):
                yield found.__get__


_RULES: dict[Callable[..., Any], tuple[str, Rule]] = {
    function: (name, rule) for rule, names in _NAMES.items() for name in names.split() for function in _named(name)
}
_RULES[F.unfold] = ("unfold", _independent)  # not Tensor.unfold, which is another function
