"""The ways a parameter can be used that have a fused Fisher kernel.

A recogniser per torch function computes the function with detached parameters, so that autograd only
follows the activations, and registers a `Use` for each parameter: how to turn (gradient of the output,
saved operands) into calls of the operators. It returns NotImplemented for anything it does not know
exactly; that use then goes through ordinary autograd and the parameter falls back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastforget import ops
from fastforget.layout import Layout, samples_first

if TYPE_CHECKING:
    from fastforget.capture import Capture

__all__ = ["RECOGNISERS", "Use"]

Accumulate = Callable[[Tensor, Sequence[Tensor], Tensor, "Tensor | None", "Tensor | None"], None]


@dataclass(eq=False)
class Use:
    """One use of one parameter.

    Attributes:
        name: The parameter.
        view: Size, stride and offset of the part that is used, or None for all of it.
        operands: Activations the kernel needs; autograd holds them between forward and backward.
        accumulate: ``accumulate(grad, operands, weights, fisher, gradient)`` adds to results of shape
            [G, *shape of the used part].
    """

    name: str
    view: tuple[tuple[int, ...], tuple[int, ...], int] | None
    accumulate: Accumulate
    operands: tuple[Tensor, ...] = field(default=())


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the type sums are kept in: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _use(capture: Capture, parameter: Any, accumulate: Accumulate, *operands: Tensor) -> Use:
    found = capture.parameter(parameter)
    if found is None:
        raise TypeError("a use must be of a watched parameter")
    name, leaf = found
    view = None
    if parameter is not leaf:
        view = (tuple(parameter.shape), parameter.stride(), parameter.storage_offset() - leaf.storage_offset())
    return Use(name, view, accumulate, tuple(operand.detach() for operand in operands))


def _detached(capture: Capture, value: Any) -> Any:
    return value.detach() if capture.parameter(value) else value


def _rows(tensor: Tensor, layout: Layout, samples: int) -> Tensor:
    """View activations with features last as [N, T, features]."""
    rows = samples_first(tensor, layout, samples)
    return rows.reshape(samples, math.prod(rows.shape[1:-1]), rows.shape[-1])


def _alike(grad: Tensor, operand: Tensor) -> tuple[Tensor, Tensor]:
    """Bring two operands to one type; autocast leaves them different."""
    if grad.dtype == operand.dtype:
        return grad, operand
    common = torch.promote_types(grad.dtype, operand.dtype)
    return grad.to(common), operand.to(common)


def _flat(results: Sequence[Tensor | None]) -> list[Tensor | None]:
    """View results [G, *shape] as [G, P]; the shape of a scalar parameter is empty."""
    return [result if result is None else result.view(result.shape[0], -1) for result in results]


def _fixed(capture: Capture, *values: Any) -> bool:
    """Whether values are parameters, or the same for every sample, and one of them is a parameter."""
    return any(map(capture.parameter, values)) and all(capture.state(value) is None for value in values)


def _shift(grad: Tensor, weights: Tensor, *results: Tensor | None) -> None:
    """Add the Fisher of a shift, fisher and gradient, from its gradient laid out as [N, A, P, B]."""
    flat = _flat(results)
    ops.fisher_affine(grad, None, None, None, weights, shift_fisher=flat[0], shift_gradient=flat[1])


# --- linear ---------------------------------------------------------------------------------------


def _matmul_use(capture: Capture, weight: Tensor, x: Tensor, layout: Layout, *, swapped: bool) -> Use:
    """The use of a matrix [O, I] in ``x @ weight.T``, or swapped [I, O] in ``x @ weight``."""

    def accumulate(grad: Tensor, operands: Sequence[Tensor], weights: Tensor, *results: Tensor | None) -> None:
        g, a = _alike(*(_rows(t, layout, capture.samples) for t in (grad, operands[0])))
        ops.fisher_linear(*((a, g) if swapped else (g, a)), weights, *results)

    return _use(capture, weight, accumulate, x)


def _bias_use(capture: Capture, bias: Tensor, layout: Layout) -> Use:
    """The use of a bias over the last dimension."""

    def accumulate(grad: Tensor, operands: Sequence[Tensor], weights: Tensor, *results: Tensor | None) -> None:
        _shift(_rows(grad, layout, capture.samples).unsqueeze(3), weights, *results)

    return _use(capture, bias, accumulate)


def _linear(capture: Capture, func: Any, input: Any, weight: Any, bias: Any = None) -> Any:
    layout = capture.layout(input)
    if layout is None or input.dim() < 2 or layout.dim >= input.dim() - 1 or weight.dim() != 2:
        return NotImplemented
    if not _fixed(capture, weight, bias) or (bias is not None and bias.shape != weight.shape[:1]):
        return NotImplemented
    uses = []
    if capture.parameter(bias):
        uses.append(_bias_use(capture, bias, layout))
    if capture.parameter(weight):
        uses.append(_matmul_use(capture, weight, input, layout, swapped=False))
    output = func(input, _detached(capture, weight), _detached(capture, bias))
    return capture.tap(output, layout, uses)


def _matmul(capture: Capture, func: Any, input: Any, other: Any, **kwargs: Any) -> Any:
    layout = capture.layout(input)
    if kwargs or layout is None or not capture.parameter(other) or other.dim() != 2:
        return NotImplemented
    if input.dim() < 2 or layout.dim >= input.dim() - 1:
        return NotImplemented
    use = _matmul_use(capture, other, input, layout, swapped=True)
    return capture.tap(func(input, other.detach()), layout, [use])


def _addmm(capture: Capture, func: Any, bias: Any, input: Any, weight: Any, **kwargs: Any) -> Any:
    layout = capture.layout(input)
    if kwargs or layout is None or layout.dim != 0 or not (capture.parameter(weight) and capture.parameter(bias)):
        return NotImplemented
    if bias.shape != weight.shape[1:]:
        return NotImplemented
    uses = [_bias_use(capture, bias, layout), _matmul_use(capture, weight, input, layout, swapped=True)]
    return capture.tap(func(bias.detach(), input, weight.detach()), layout, uses)


# --- convolutions ---------------------------------------------------------------------------------


def _tuple(value: Any, dims: int) -> tuple[int, ...]:
    return (value,) * dims if isinstance(value, int) else tuple(value) * (dims if len(value) == 1 else 1)


def _frames(tensor: Tensor, layout: Layout, samples: int) -> Tensor:
    """View [N * frames, C, *space] as [N, C, frames, *space]: one more dimension for the kernel."""
    frames: Tensor = tensor.unflatten(0, (samples, layout.inner)).movedim(1, 2)
    return frames


def _convolution_uses(
    capture: Capture, x: Tensor, layout: Layout, weight: Any, bias: Any, settings: dict[str, Any], *, transposed: bool
) -> list[Use]:
    """The uses of weight and bias of a convolution over an input that is padded with zeros."""
    single = layout.inner == 1

    def accumulate(grad: Tensor, operands: Sequence[Tensor], weights: Tensor, *results: Tensor | None) -> None:
        g, a = _alike(grad, operands[0])
        stride, padding, dilation = settings["stride"], settings["padding"], settings["dilation"]
        if not single:
            g, a = (_frames(t, layout, capture.samples) for t in (g, a))
            stride, padding, dilation = (1, *stride), (0, *padding), (1, *dilation)
            results = tuple(result if result is None else result.unsqueeze(3) for result in results)
        first, second = (a, g) if transposed else (g, a)
        ops.fisher_convolution(first, second, weights, stride, padding, dilation, settings["groups"], *results)

    def accumulate_bias(grad: Tensor, operands: Sequence[Tensor], weights: Tensor, *results: Tensor | None) -> None:
        planes = grad.flatten(2).unflatten(0, (capture.samples, layout.inner))
        _shift(planes, weights, *results)

    uses = []
    if capture.parameter(bias):
        uses.append(_use(capture, bias, accumulate_bias))
    if capture.parameter(weight):
        uses.append(_use(capture, weight, accumulate, x))
    return uses


def _plain_samples(capture: Capture, input: Any, dims: int | None = None) -> Layout | None:
    """Return the layout of [N * frames, C, *space], samples outermost; None for anything else."""
    layout = capture.layout(input)
    if layout is None or layout.dim != 0 or input.shape[0] != capture.samples * layout.inner:
        return None
    return layout if dims is None or input.dim() == dims + 2 else None


def _convolution(
    capture: Capture,
    func: Any,
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    dims = weight.dim() - 2
    layout = _plain_samples(capture, input, dims)
    if layout is None or (layout.inner > 1 and dims == 3) or not _fixed(capture, weight, bias):
        return NotImplemented
    stride, dilation = _tuple(stride, dims), _tuple(dilation, dims)
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        # F.pad counts from the last dimension; the odd zero goes behind, as PyTorch does it
        sides = [side for t in reversed(total) for side in (t // 2, t - t // 2)]
        odd = any(t % 2 for t in total)
        input = F.pad(input, sides) if odd else input  # noqa: A001 - torch's name for it
        padding = (0,) * dims if odd else tuple(t // 2 for t in total)
    elif padding == "valid":
        padding = (0,) * dims
    settings = {"stride": stride, "padding": _tuple(padding, dims), "dilation": dilation, "groups": groups}
    uses = _convolution_uses(capture, input, layout, weight, bias, settings, transposed=False)
    output = func(input, _detached(capture, weight), _detached(capture, bias), **settings)
    return capture.tap(output, layout, uses)


def _transposed_convolution(
    capture: Capture,
    func: Any,
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Any:
    dims = weight.dim() - 2
    layout = _plain_samples(capture, input, dims)
    if layout is None or (layout.inner > 1 and dims == 3) or not _fixed(capture, weight, bias):
        return NotImplemented
    settings: dict[str, Any] = {"groups": groups}
    spatial = {"stride": stride, "padding": padding, "dilation": dilation}
    settings |= {key: _tuple(value, dims) for key, value in spatial.items()}
    uses = _convolution_uses(capture, input, layout, weight, bias, settings, transposed=True)
    output = func(
        input, _detached(capture, weight), _detached(capture, bias), output_padding=output_padding, **settings
    )
    return capture.tap(output, layout, uses)


# --- norms ----------------------------------------------------------------------------------------


def _norm_uses(
    capture: Capture,
    x: Tensor,
    weight: Any,
    bias: Any,
    arrange: Callable[[Tensor], Tensor],
    statistics: Callable[[Tensor], tuple[Tensor | None, Tensor]],
) -> list[Use]:
    """Return the uses of scale and shift.

    Args:
        capture: The capture under way.
        x: What is normalised.
        weight: The scale, or None.
        bias: The shift, or None.
        arrange: Views activations as [N, A, P, B].
        statistics: Gives mean and rstd, expandable to [N, A, P], from the arranged input.

    Returns:
        One use for each of scale and shift that is a parameter.
    """

    def scale(grad: Tensor, operands: Sequence[Tensor], weights: Tensor, *results: Tensor | None) -> None:
        g, a = (arrange(t) for t in _alike(grad, operands[0]))
        mean, rstd = (t if t is None else t.expand(g.shape[:3]) for t in statistics(a))
        flat = _flat(results)
        ops.fisher_affine(g, a, mean, rstd, weights, scale_fisher=flat[0], scale_gradient=flat[1])

    def shift(grad: Tensor, operands: Sequence[Tensor], weights: Tensor, *results: Tensor | None) -> None:
        _shift(arrange(grad), weights, *results)

    uses = []
    if capture.parameter(bias):
        uses.append(_use(capture, bias, shift))
    if capture.parameter(weight):
        uses.append(_use(capture, weight, scale, x))
    return uses


def _moments(values: Tensor, dims: Sequence[int], eps: float, *, centred: bool = True) -> tuple[Tensor | None, Tensor]:
    """Return mean and 1 / sqrt(variance + eps) over ``dims``, dropped; without centring no mean."""
    values = values.to(sum_dtype(values.dtype))
    if not centred:
        return None, (values.square().mean(tuple(dims)) + eps).rsqrt()
    variance, mean = torch.var_mean(values, dim=list(dims), correction=0)
    return mean, (variance + eps).rsqrt()


def _layer_norm(
    capture: Capture, func: Any, input: Any, normalized_shape: Any, weight: Any = None, bias: Any = None,
    eps: float = 1e-5,
) -> Any:  # fmt: skip
    return _trailing_norm(capture, func, input, normalized_shape, (weight, bias), eps, centred=True)


def _rms_norm(
    capture: Capture, func: Any, input: Any, normalized_shape: Any, weight: Any = None, eps: float | None = None
) -> Any:
    return _trailing_norm(capture, func, input, normalized_shape, (weight,), eps, centred=False)


def _trailing_norm(
    capture: Capture, func: Any, input: Any, shape: Sequence[int], affine: Sequence[Any], eps: float | None,
    *, centred: bool,
) -> Any:  # fmt: skip
    """layer_norm and rms_norm: statistics over the last dimensions."""
    layout, trailing = capture.layout(input), len(shape)
    if layout is None or layout.dim >= input.dim() - trailing or not _fixed(capture, *affine):
        return NotImplemented
    epsilon = torch.finfo(input.dtype).eps if eps is None else eps

    def arrange(t: Tensor) -> Tensor:
        return _rows(t.flatten(-trailing), layout, capture.samples).unsqueeze(3)

    def statistics(a: Tensor) -> tuple[Tensor | None, Tensor]:
        mean, rstd = _moments(a, (2, 3), epsilon, centred=centred)
        return None if mean is None else mean.unsqueeze(2), rstd.unsqueeze(2)

    uses = _norm_uses(capture, input, affine[0], affine[1] if len(affine) > 1 else None, arrange, statistics)
    output = func(input, shape, *(_detached(capture, t) for t in affine), eps)
    return capture.tap(output, layout, uses)


def _channel_norm(
    capture: Capture,
    input: Any,
    affine: tuple[Any, Any],
    compute: Callable[[Any, Any], Tensor],
    statistics: Callable[[Tensor], tuple[Tensor | None, Tensor]],
) -> Any:
    """Norms with a parameter per channel of [N * frames, C, *space]."""
    layout = _plain_samples(capture, input)
    if layout is None or not _fixed(capture, *affine):
        return NotImplemented

    def arrange(t: Tensor) -> Tensor:
        return t.reshape(capture.samples, layout.inner, t.shape[1], -1)

    uses = _norm_uses(capture, input, *affine, arrange, statistics)
    return capture.tap(compute(*(_detached(capture, t) for t in affine)), layout, uses)


def _batch_norm(
    capture: Capture, func: Any, input: Any, running_mean: Any, running_var: Any, weight: Any = None,
    bias: Any = None, training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Any:  # fmt: skip
    if training or running_mean is None:
        raise ValueError(
            "batch norm must use running statistics: in train mode a sample's gradient depends on the others of "
            "its batch; call model.eval() first"
        )

    def statistics(a: Tensor) -> tuple[Tensor | None, Tensor]:
        mean, variance = (t.to(sum_dtype(a.dtype)) for t in (running_mean, running_var))
        return mean, (variance + eps).rsqrt()

    def compute(w: Any, b: Any) -> Tensor:
        return F.batch_norm(input, running_mean, running_var, w, b, False, momentum, eps)

    return _channel_norm(capture, input, (weight, bias), compute, statistics)


def _torch_batch_norm(
    capture: Capture, func: Any, input: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any,
    training: bool, momentum: float, eps: float, cudnn_enabled: bool = True,
) -> Any:  # fmt: skip
    """torch.batch_norm, whose arguments come in another order than those of F.batch_norm."""
    return _batch_norm(capture, func, input, running_mean, running_var, weight, bias, training, momentum, eps)


def _instance_norm(
    capture: Capture, func: Any, input: Any, running_mean: Any = None, running_var: Any = None, weight: Any = None,
    bias: Any = None, use_input_stats: bool = True, momentum: float = 0.1, eps: float = 1e-5,
) -> Any:  # fmt: skip
    if use_input_stats and running_mean is not None:
        raise ValueError("instance norm would update its running statistics: call model.eval() first")

    def statistics(a: Tensor) -> tuple[Tensor | None, Tensor]:
        if use_input_stats:
            return _moments(a, (3,), eps)
        mean, variance = (t.to(sum_dtype(a.dtype)) for t in (running_mean, running_var))
        return mean, (variance + eps).rsqrt()

    def compute(w: Any, b: Any) -> Tensor:
        return F.instance_norm(input, running_mean, running_var, w, b, use_input_stats, momentum, eps)

    return _channel_norm(capture, input, (weight, bias), compute, statistics)


def _group_norm(
    capture: Capture, func: Any, input: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Any:
    def statistics(a: Tensor) -> tuple[Tensor | None, Tensor]:
        mean, rstd = _moments(a.unflatten(2, (num_groups, -1)), (3, 4), eps)
        repeats = a.shape[2] // num_groups
        return None if mean is None else mean.repeat_interleave(repeats, 2), rstd.repeat_interleave(repeats, 2)

    def compute(w: Any, b: Any) -> Tensor:
        return F.group_norm(input, num_groups, w, b, eps)

    return _channel_norm(capture, input, (weight, bias), compute, statistics)


# --- embedding ------------------------------------------------------------------------------------


def _embedding(
    capture: Capture, func: Any, input: Any, weight: Any, padding_idx: int | None = None, max_norm: Any = None,
    norm_type: float = 2.0, scale_grad_by_freq: bool = False, sparse: bool = False,
) -> Any:  # fmt: skip
    layout = capture.layout(input)
    if layout is None or not capture.parameter(weight) or max_norm is not None or scale_grad_by_freq:
        return NotImplemented
    padding = -1 if padding_idx is None else padding_idx % weight.shape[0]

    def accumulate(grad: Tensor, operands: Sequence[Tensor], weights: Tensor, *results: Tensor | None) -> None:
        tokens = _rows(operands[0].unsqueeze(-1), layout, capture.samples).squeeze(-1)
        rows = _rows(grad, layout, capture.samples)
        ops.fisher_embedding(rows, tokens.long().contiguous(), weights, padding, *results)

    use = _use(capture, weight, accumulate, input)
    return capture.tap(func(input, weight.detach(), padding_idx), layout, [use])


# --- broadcasting ---------------------------------------------------------------------------------


def _per_sample(tensor: Tensor, layout: Layout, shape: Sequence[int], samples: int) -> Tensor:
    """Sum an activation over everything a parameter of ``shape`` was broadcast over: [N, 1, P, 1]."""
    kept = tensor.dim() - len(shape)
    full = [1] * kept + list(shape)
    del full[layout.dim]  # the parameter does not vary along the samples
    values = samples_first(tensor, layout, samples)
    over = [1] + [d + 2 for d, size in enumerate(full) if size == 1 and values.shape[d + 2] != 1]
    values = values.to(sum_dtype(values.dtype)).sum(over) if values.shape[1] > 1 or len(over) > 1 else values
    return values.reshape(samples, 1, -1, 1)


def _broadcast(capture: Capture, a: Any, b: Any) -> tuple[Tensor, Tensor, Layout] | None:
    """Return (activation, parameter, layout of the result) of a sum or product, if that is what it is."""
    x, p = (b, a) if capture.parameter(a) else (a, b)
    layout = capture.layout(x)
    if layout is None or not capture.parameter(p) or p.numel() == 0:
        return None
    dim = layout.dim + max(0, p.dim() - x.dim())
    behind = max(x.dim(), p.dim()) - dim
    if p.dim() >= behind and p.shape[p.dim() - behind] != 1:
        return None  # varies along the samples
    return x, p, Layout(dim, layout.inner)


def _add(capture: Capture, func: Any, input: Any, other: Any, **kwargs: Any) -> Any:
    found = None if kwargs else _broadcast(capture, input, other)
    if found is None or (func is torch.Tensor.add_ and capture.parameter(input)):
        return NotImplemented
    _, parameter, layout = found
    shape = parameter.shape

    def accumulate(grad: Tensor, operands: Sequence[Tensor], weights: Tensor, *results: Tensor | None) -> None:
        _shift(_per_sample(grad, layout, shape, capture.samples), weights, *results)

    use = _use(capture, parameter, accumulate)
    return capture.tap(func(*(_detached(capture, t) for t in (input, other))), layout, [use])


def _mul(capture: Capture, func: Any, input: Any, other: Any, **kwargs: Any) -> Any:
    found = None if kwargs else _broadcast(capture, input, other)
    if found is None:
        return NotImplemented
    x, parameter, layout = found
    shape = parameter.shape

    def accumulate(grad: Tensor, operands: Sequence[Tensor], weights: Tensor, *results: Tensor | None) -> None:
        wide = sum_dtype(grad.dtype)
        product = grad.to(wide) * operands[0].to(wide)
        _shift(_per_sample(product, layout, shape, capture.samples), weights, *results)

    use = _use(capture, parameter, accumulate, x)
    return capture.tap(func(*(_detached(capture, t) for t in (input, other))), layout, [use])


def _expand(capture: Capture, func: Any, input: Any, *sizes: Any, **kwargs: Any) -> Any:
    """A parameter repeated for every sample, such as a class token: ``token.expand(N, -1, -1)``."""
    if kwargs or not capture.parameter(input):
        return NotImplemented
    output = func(input.detach(), *sizes)
    shape = [1] * (output.dim() - input.dim()) + list(input.shape)
    grown = [d for d, size in enumerate(shape) if output.shape[d] != size]
    if capture.samples == 1 and not grown:
        grown = [0] if shape and shape[0] == 1 else []
    if len(grown) != 1 or output.shape[grown[0]] != capture.samples or shape[grown[0]] != 1:
        return NotImplemented
    layout = Layout(grown[0])

    def accumulate(grad: Tensor, operands: Sequence[Tensor], weights: Tensor, *results: Tensor | None) -> None:
        _shift(_per_sample(grad, layout, shape, capture.samples), weights, *results)

    return capture.tap(output.clone(), layout, [_use(capture, input, accumulate)])


# --- dropout --------------------------------------------------------------------------------------


def _dropout(
    capture: Capture, func: Any, input: Any, p: float = 0.5, training: bool = True, *rest: Any, **kw: Any
) -> Any:
    if training and p > 0:
        raise ValueError(
            "dropout must not be active: the Fisher of a random network is not defined; call model.eval() first"
        )
    return NotImplemented


def _attention(capture: Capture, func: Any, *args: Any, **kwargs: Any) -> Any:
    if (args[4] if len(args) > 4 else kwargs.get("dropout_p", 0.0)) > 0:
        raise ValueError("attention dropout must not be active; call model.eval() first")
    return NotImplemented


RECOGNISERS: dict[Any, Callable[..., Any]] = {
    F.linear: _linear,
    **dict.fromkeys((torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.mm, torch.Tensor.mm), _matmul),
    torch.addmm: _addmm,
    **dict.fromkeys((torch.conv1d, torch.conv2d, torch.conv3d), _convolution),
    **dict.fromkeys((torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d), _transposed_convolution),
    F.layer_norm: _layer_norm,
    F.rms_norm: _rms_norm,
    F.batch_norm: _batch_norm,
    torch.batch_norm: _torch_batch_norm,
    F.instance_norm: _instance_norm,
    F.group_norm: _group_norm,
    F.embedding: _embedding,
    **dict.fromkeys((torch.add, torch.Tensor.add, torch.Tensor.add_, torch.Tensor.__radd__), _add),
    **dict.fromkeys((torch.mul, torch.Tensor.mul), _mul),
    **dict.fromkeys((torch.Tensor.expand, torch.Tensor.repeat), _expand),
    **dict.fromkeys(
        (F.dropout, F.alpha_dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.feature_alpha_dropout), _dropout
    ),
    F.scaled_dot_product_attention: _attention,
}
