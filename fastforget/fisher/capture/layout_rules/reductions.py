"""Functions that combine the entries along other dimensions than the samples'."""

from __future__ import annotations

from fastforget.fisher.capture.call import Call, LayoutRule, dims_of
from fastforget.fisher.capture.layout import Layout

__all__ = ["RULES", "after_reduction", "after_scan"]


def after_reduction(call: Call) -> Layout | None:
    """Reductions: the dimensions that disappear, or become 1, must not be the samples'."""
    value, layout = call.activations()[0]
    rest = call.args[1:]
    given = call.argument(2 if call.name == "norm" else 1, "dim", "axis")  # the second of `norm` is its p
    if call.name != "norm" and len(rest) > 1 and all(type(dim) is int for dim in rest):
        given = tuple(rest)  # x.sum(1, 2) is x.sum((1, 2))
    dims = dims_of(given, value.dim())
    if not dims or layout.dim in dims or len(call.activations()) > 1:
        return None
    if call.result.dim() == value.dim():
        return layout
    return Layout(layout.dim - sum(dim < layout.dim for dim in dims), layout.inner)


def after_scan(call: Call) -> Layout | None:
    """Functions that mix along a dimension and keep the shape: softmax, cumsum, flip, roll."""
    value, layout = call.activations()[0]
    given = call.argument(2 if call.name == "roll" else 1, "dim", "dims")
    dims = dims_of(call.args[1:] if call.name == "flip" and isinstance(given, int) else given, value.dim())
    return layout if dims and layout.dim not in dims and len(call.activations()) == 1 else None


RULES: dict[LayoutRule, str] = {
    after_reduction: "sum mean amax amin max min var std prod logsumexp argmax argmin any all norm nansum nanmean "
    "median var_mean std_mean aminmax",
    after_scan: "softmax log_softmax softmin cumsum cumprod flip roll sort",
}
