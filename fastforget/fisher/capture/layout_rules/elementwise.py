"""Functions that work element by element, on shapes aligned from the right."""

from __future__ import annotations

from fastforget.fisher.capture.call import Call, LayoutRule
from fastforget.fisher.capture.layout import Layout

__all__ = ["RULES", "after_broadcast"]


def after_broadcast(call: Call) -> Layout | None:
    """Element-wise functions, ``expand`` and ``repeat``: all activations must have the samples at one place."""
    common: Layout | None = None
    for value, layout in call.activations():
        dim = call.result.dim() - (value.dim() - layout.dim)
        aligned = Layout(dim, layout.inner)
        if dim < 0 or call.result.shape[dim] != value.shape[layout.dim] or common not in (None, aligned):
            return None
        common = aligned
    return common


RULES: dict[LayoutRule, str] = {
    after_broadcast: "zeros_like ones_like full_like empty_like rand_like randn_like "
    "add sub mul div true_divide floor_divide remainder pow rsub neg abs sign exp expm1 exp2 log log1p log2 "
    "log10 sqrt rsqrt square reciprocal sin cos tan tanh atan asin acos sinh cosh sigmoid erf erfc relu relu6 gelu "
    "silu mish elu selu celu leaky_relu hardswish hardsigmoid hardtanh hardshrink softplus softsign softshrink "
    "tanhshrink logsigmoid threshold prelu clamp clip clamp_min clamp_max minimum maximum where lerp addcmul addcdiv "
    "masked_fill floor ceil round trunc frac nan_to_num isnan isinf isfinite logical_not logical_and logical_or "
    "bitwise_and bitwise_or bitwise_not eq ne lt le gt ge copy_ dropout dropout1d dropout2d dropout3d alpha_dropout "
    "feature_alpha_dropout feature_dropout clone contiguous detach to float double half bfloat16 long int bool type "
    "type_as requires_grad_ expand expand_as broadcast_to repeat logit digamma lgamma atan2 fill_ zero_ "
    "__rsub__ __rpow__ __rdiv__ __rtruediv__ __rfloordiv__ __rmod__ __and__ __or__ __invert__ xlogy heaviside",
}
