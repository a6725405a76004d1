"""Scale and shift of layer, RMS, batch, instance and group norm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastforget import ops
from fastforget.fisher.capture.layout import rows_by_sample
from fastforget.fisher.capture.recognisers.standardised import standardised_rows
from fastforget.fisher.capture.use import Sums, Use, add_shift
from fastforget.fisher.capture.watch import Watch
from fastforget.fisher.dtypes import autocasts, sum_dtype, to_common_dtype

__all__ = ["RECOGNISERS"]

_Arrange = Callable[[Tensor], Tensor]  # views activations as [N, A, P, B]
# Returns mean (or None for 0) and 1 / deviation of an arranged input, each expandable to [N, A, P].
_Statistics = Callable[[Tensor], tuple[Tensor | None, Tensor]]


def _norm_uses(
    watch: Watch, x: Tensor, weight: Any, bias: Any, arrange: _Arrange, statistics: _Statistics
) -> list[Use]:
    """The use of the scale of a norm of ``x``, with that of the shift as its partner, or of the one that there is."""

    def accumulate_both(
        grad: Tensor, operands: Sequence[Tensor], weights: Tensor, scale_sums: Sums, shift_sums: Sums
    ) -> None:
        g, a = (arrange(t) for t in to_common_dtype(grad, operands[0]))
        mean, rstd = (t if t is None else t.expand(g.shape[:3]) for t in statistics(a))
        names = ("scale_fisher", "scale_gradient", "shift_fisher", "shift_gradient")
        results = dict(zip(names, (*scale_sums.flat(), *shift_sums.flat()), strict=True))
        ops.fisher_affine(g, a, mean, rstd, weights, **results)

    def accumulate_scale(grad: Tensor, operands: Sequence[Tensor], weights: Tensor, sums: Sums) -> None:
        accumulate_both(grad, operands, weights, sums, Sums(None, None))

    def accumulate_shift(grad: Tensor, operands: Sequence[Tensor], weights: Tensor, sums: Sums) -> None:
        add_shift(arrange(grad), weights, sums)

    shift_use = watch.use_of(bias, accumulate_shift) if watch.parameter(bias) else None
    if not watch.parameter(weight):
        return [shift_use] if shift_use else []
    both = accumulate_both if shift_use else None
    return [watch.use_of(weight, accumulate_scale, x, partner=shift_use, accumulate_both=both)]


def _moments(values: Tensor, dims: Sequence[int], eps: float, *, centred: bool = True) -> tuple[Tensor | None, Tensor]:
    """Return mean and 1 / sqrt(variance + eps) over ``dims``, which disappear; no mean unless ``centred``."""
    values = values.to(sum_dtype(values.dtype))
    if not centred:
        return None, (values.square().mean(tuple(dims)) + eps).rsqrt()
    variance, mean = torch.var_mean(values, dim=list(dims), correction=0)
    return mean, (variance + eps).rsqrt()


def _layer_norm(
    watch: Watch, func: Any, input: Any, normalized_shape: Any, weight: Any = None, bias: Any = None,
    eps: float = 1e-5,
) -> Any:  # fmt: skip
    return _trailing_norm(watch, func, input, normalized_shape, (weight, bias), eps, centred=True)


def _rms_norm(
    watch: Watch, func: Any, input: Any, normalized_shape: Any, weight: Any = None, eps: float | None = None
) -> Any:
    return _trailing_norm(watch, func, input, normalized_shape, (weight,), eps, centred=False)


def _trailing_norm(
    watch: Watch, func: Any, input: Any, shape: Sequence[int], affine: Sequence[Any], eps: float | None,
    *, centred: bool,
) -> Any:  # fmt: skip
    """layer_norm and rms_norm: statistics over the last dimensions."""
    layout, trailing = watch.layout(input), len(shape)
    if layout is None or layout.dim >= input.dim() - trailing or not watch.are_parametric(*affine):
        return NotImplemented
    parts = [watch.detached(t) for t in affine]
    computed: tuple[Tensor, ...] = ()
    if centred and not autocasts(input):
        # What F.layer_norm calls; it returns its mean and rstd too.
        output, *moments = torch.native_layer_norm(input, shape, parts[0], parts[1], eps)  # type: ignore[arg-type]
        computed = tuple(moments)
    else:
        output = func(input, shape, *parts, eps)
    # By default that of the type PyTorch computes in, which is float32 for half types.
    epsilon = torch.finfo(sum_dtype(input.dtype)).eps if eps is None else eps

    def arrange(t: Tensor) -> Tensor:
        return rows_by_sample(t.flatten(-trailing), layout, watch.samples).unsqueeze(3)

    def statistics(a: Tensor) -> tuple[Tensor | None, Tensor]:
        if computed and computed[0].dtype == sum_dtype(a.dtype):
            mean, rstd = (rows_by_sample(t.detach().flatten(-trailing), layout, watch.samples) for t in computed)
            return mean, rstd
        mean_of_rows, rstd = _moments(a, (2, 3), epsilon, centred=centred)
        return None if mean_of_rows is None else mean_of_rows.unsqueeze(2), rstd.unsqueeze(2)

    uses = _norm_uses(watch, input, affine[0], affine[1] if len(affine) > 1 else None, arrange, statistics)
    return watch.tap(output, layout, uses)


def _channel_norm(
    watch: Watch,
    input: Any,
    affine: tuple[Any, Any],
    compute: Callable[[Any, Any], Tensor],
    statistics: _Statistics,
) -> Any:
    """Norms with a parameter per channel of [N * frames, C, *space]."""
    layout = watch.layout_of_planes(input)
    if layout is None or not watch.are_parametric(*affine):
        return NotImplemented

    def arrange(t: Tensor) -> Tensor:
        return t.reshape(watch.samples, layout.inner, t.shape[1], -1)

    uses = _norm_uses(watch, input, *affine, arrange, statistics)
    return watch.tap(compute(*(watch.detached(t) for t in affine)), layout, uses)


def _batch_norm(
    watch: Watch, func: Any, input: Any, running_mean: Any, running_var: Any, weight: Any = None,
    bias: Any = None, training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Any:  # fmt: skip
    if training or running_mean is None:
        if watch.is_same_for_every_sample(input):  # a weight that is standardised
            return _standardise(watch, input, running_mean, weight, bias, momentum, eps)
        raise ValueError(
            "batch norm must use running statistics: in train mode a sample's gradient depends on the others of "
            "its batch; call model.eval() first"
        )

    def statistics(a: Tensor) -> tuple[Tensor | None, Tensor]:
        mean, variance = (t.to(sum_dtype(a.dtype)) for t in (running_mean, running_var))
        return mean, (variance + eps).rsqrt()

    def compute(w: Any, b: Any) -> Tensor:
        return F.batch_norm(input, running_mean, running_var, w, b, False, momentum, eps)

    return _channel_norm(watch, input, (weight, bias), compute, statistics)


def _standardise(
    watch: Watch, input: Any, running_mean: Any, weight: Any, bias: Any, momentum: float, eps: float
) -> Any:
    if running_mean is not None or bias is not None or not watch.parameter(input):
        return NotImplemented
    if weight is not None and watch.layout_state(weight) is not None:
        return NotImplemented
    return standardised_rows(watch, input, weight, momentum, eps)


def _torch_batch_norm(
    watch: Watch, func: Any, input: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any,
    training: bool, momentum: float, eps: float, cudnn_enabled: bool = True,
) -> Any:  # fmt: skip
    """torch.batch_norm, whose arguments come in another order than those of F.batch_norm."""
    return _batch_norm(watch, func, input, running_mean, running_var, weight, bias, training, momentum, eps)


def _instance_norm(
    watch: Watch, func: Any, input: Any, running_mean: Any = None, running_var: Any = None, weight: Any = None,
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

    return _channel_norm(watch, input, (weight, bias), compute, statistics)


def _group_norm(
    watch: Watch, func: Any, input: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Any:
    def statistics(a: Tensor) -> tuple[Tensor | None, Tensor]:
        mean, rstd = _moments(a.unflatten(2, (num_groups, -1)), (3, 4), eps)
        repeats = a.shape[2] // num_groups
        return None if mean is None else mean.repeat_interleave(repeats, 2), rstd.repeat_interleave(repeats, 2)

    def compute(w: Any, b: Any) -> Tensor:
        return F.group_norm(input, num_groups, w, b, eps)

    return _channel_norm(watch, input, (weight, bias), compute, statistics)


RECOGNISERS: dict[Any, Callable[..., Any]] = {
    F.layer_norm: _layer_norm,
    F.rms_norm: _rms_norm,
    F.batch_norm: _batch_norm,
    torch.batch_norm: _torch_batch_norm,
    F.instance_norm: _instance_norm,
    F.group_norm: _group_norm,
}
