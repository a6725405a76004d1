"""Functions of layers: convolutions, pooling, norms, attention, embeddings."""

from __future__ import annotations

from fastforget.fisher.capture.call import Call, LayoutRule
from fastforget.fisher.capture.layout import Layout

__all__ = ["RULES", "after_batched", "after_lookup", "after_trailing"]


def after_batched(call: Call) -> Layout | None:
    """Functions on [N, C, *space] that treat the entries of dimension 0 independently."""
    value = call.argument(0, "input")
    layout = call.state_of(value)
    rank = {"1d": 3, "2d": 4, "3d": 5}.get(call.name[-2:])
    if not isinstance(layout, Layout) or layout.dim != 0 or len(call.activations()) != 1:
        return None
    return layout if rank in (None, value.dim()) else None


def after_trailing(call: Call) -> Layout | None:
    """Functions that mix the last dimensions only: linear, layer_norm, rms_norm, attention."""
    value, layout = call.activations()[0]
    if call.name == "scaled_dot_product_attention":
        if any(state != layout or other.dim() != value.dim() for other, state in call.activations()):
            return None
    elif len(call.activations()) > 1 or value is not call.argument(0, "input"):
        return None
    mixed = {"linear": 1, "scaled_dot_product_attention": 2}.get(call.name)
    if mixed is None:
        mixed = len(call.argument(1, "normalized_shape"))
    kept = layout.dim < value.dim() - mixed and call.result.shape[layout.dim] == value.shape[layout.dim]
    return layout if kept else None


def after_lookup(call: Call) -> Layout | None:
    """Rows looked up by tokens, or one-hot vectors: the tokens' dimensions come first."""
    layout = call.state_of(call.argument(0, "input"))
    return layout if isinstance(layout, Layout) and len(call.activations()) == 1 else None


RULES: dict[LayoutRule, str] = {
    after_batched: "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d max_pool1d max_pool2d "
    "max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d "
    "adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d lp_pool1d lp_pool2d max_pool1d_with_indices "
    "max_pool2d_with_indices max_pool3d_with_indices interpolate upsample batch_norm group_norm instance_norm "
    "pixel_shuffle pixel_unshuffle channel_shuffle fold local_response_norm",
    after_trailing: "linear layer_norm rms_norm scaled_dot_product_attention",
    after_lookup: "embedding one_hot",
}
