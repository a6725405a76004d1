"""Products of matrices."""

from __future__ import annotations

from fastforget.fisher.capture.call import Call, LayoutRule
from fastforget.fisher.capture.layout import Layout

__all__ = ["RULES", "after_einsum", "after_matmul"]


def after_matmul(call: Call) -> Layout | None:
    """Products of (batches of) matrices: the dimensions that are summed over must not be the samples'."""
    first = 1 if call.name in ("addmm", "baddbmm") else 0  # these add their first argument to the product
    if first == 1 and call.state_of(call.args[0]) is not None:
        return None
    left, right = call.argument(first, "input", "mat1", "batch1"), call.argument(first + 1, "mat2", "other", "batch2")
    if min(left.dim(), right.dim()) < 2:
        return None
    common: Layout | None = None
    for factor, dim_kept in ((left, 2), (right, 1)):  # counted from the last dimension: rows of one, columns of other
        layout = call.state_of(factor)
        if not isinstance(layout, Layout):
            continue
        from_last = factor.dim() - layout.dim
        if from_last < 3 and from_last != dim_kept:
            return None
        aligned = Layout(call.result.dim() - from_last, layout.inner)
        if common not in (None, aligned):
            return None
        common = aligned
    return common


def after_einsum(call: Call) -> Layout | None:
    """``einsum``: the letter of the samples must be in the output."""
    equation, *operands = call.args
    if not isinstance(equation, str) or "." in equation or "->" not in equation:
        return None
    if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
        operands = list(operands[0])
    inputs, output = equation.replace(" ", "").split("->")
    lettered = set()
    for letters, operand in zip(inputs.split(","), operands, strict=True):
        layout = call.state_of(operand)
        if isinstance(layout, Layout):
            lettered.add((letters[layout.dim], layout.inner))
    if len(lettered) != 1:
        return None
    ((letter, inner),) = lettered
    return Layout(output.index(letter), inner) if letter in output else None


RULES: dict[LayoutRule, str] = {
    after_matmul: "matmul bmm mm addmm baddbmm __matmul__ __rmatmul__",
    after_einsum: "einsum",
}
