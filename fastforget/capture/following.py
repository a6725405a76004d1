"""The layout of a function's results from those of its arguments, by the rule of the function.

A function that is not listed, or that mixes samples, gives `Unknown`, never a guess.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastforget.capture import layout_rules as rules
from fastforget.capture.layout import Call, Layout, State, Unknown

__all__ = ["follow", "is_known", "keeps_shape_and_place"]

Rule = Callable[[str, Call], State]


def follow(function: Callable[..., Any], call: Call) -> State:
    """Return the state of ``call.result``, one tensor that ``function`` returned."""
    known = [state for _, state in call.tensors if state is not None]
    if not known:
        return None
    for state in known:
        if isinstance(state, Unknown):
            return state
    name, rule = _RULES.get(function, (getattr(function, "__name__", str(function)), None))
    if rule is rules.constant:
        return None
    found = rule(name, call) if rule else None
    if isinstance(found, Layout) and call.result.shape[found.dim] % (call.samples * found.inner):
        found = None
    return found or Unknown(f"`{name}` is not known to keep samples apart")


def keeps_shape_and_place(function: Callable[..., Any], args: Sequence[Any], result: Any) -> bool:
    """Whether a function worked element by element on its first argument alone; most calls of a network do."""
    return (
        function in _ELEMENTWISE
        and isinstance(result, Tensor)
        and isinstance(args[0], Tensor)
        and result.shape == args[0].shape
        and not any(isinstance(value, Tensor) for value in args[1:])
    )


def is_known(function: Callable[..., Any]) -> bool:
    """Whether there is a rule for a function."""
    return function in _RULES


_NAMES: dict[Rule, str] = {
    rules.constant: "new_zeros new_ones new_full new_empty new_tensor",
    rules.aligned: "zeros_like ones_like full_like empty_like rand_like randn_like "
    "add sub mul div true_divide floor_divide remainder pow rsub neg abs sign exp expm1 exp2 log log1p log2 "
    "log10 sqrt rsqrt square reciprocal sin cos tan tanh atan asin acos sinh cosh sigmoid erf erfc relu relu6 gelu "
    "silu mish elu selu celu leaky_relu hardswish hardsigmoid hardtanh hardshrink softplus softsign softshrink "
    "tanhshrink logsigmoid threshold prelu clamp clip clamp_min clamp_max minimum maximum where lerp addcmul addcdiv "
    "masked_fill floor ceil round trunc frac nan_to_num isnan isinf isfinite logical_not logical_and logical_or "
    "bitwise_and bitwise_or bitwise_not eq ne lt le gt ge copy_ dropout dropout1d dropout2d dropout3d alpha_dropout "
    "feature_alpha_dropout feature_dropout clone contiguous detach to float double half bfloat16 long int bool type "
    "type_as requires_grad_ expand expand_as broadcast_to repeat logit digamma lgamma atan2 fill_ zero_ "
    "__rsub__ __rpow__ __rdiv__ __rtruediv__ __rfloordiv__ __rmod__ __and__ __or__ __invert__ xlogy heaviside",
    rules.reshaped: "view reshape flatten unflatten squeeze unsqueeze view_as reshape_as ravel",
    rules.permuted: "permute transpose movedim moveaxis swapaxes swapdims t adjoint T mT",
    rules.reduced: "sum mean amax amin max min var std prod logsumexp argmax argmin any all norm nansum nanmean median "
    "var_mean std_mean aminmax",
    rules.along: "softmax log_softmax softmin cumsum cumprod flip roll sort",
    rules.selected: "unbind select",
    rules.narrowed: "chunk split split_with_sizes tensor_split narrow index_select",
    rules.padded: "pad",
    rules.concatenated: "cat concat concatenate stack",
    rules.indexed: "__getitem__",
    rules.assigned: "__setitem__",
    rules.independent: "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d max_pool1d max_pool2d "
    "max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d "
    "adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d lp_pool1d lp_pool2d max_pool1d_with_indices "
    "max_pool2d_with_indices max_pool3d_with_indices interpolate upsample batch_norm group_norm instance_norm "
    "pixel_shuffle pixel_unshuffle channel_shuffle fold local_response_norm",
    rules.trailing: "linear layer_norm rms_norm scaled_dot_product_attention",
    rules.embedded: "embedding one_hot",
    rules.multiplied: "matmul bmm mm addmm baddbmm __matmul__ __rmatmul__",
    rules.einsum: "einsum",
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
_RULES[F.unfold] = ("unfold", rules.independent)  # not Tensor.unfold, which is another function
_ELEMENTWISE = {function for function, (_, rule) in _RULES.items() if rule is rules.aligned}
