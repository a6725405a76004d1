"""The diagonal Fisher information of every parameter, from one forward and backward."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fastforget.batch import Inputs, check_finite
from fastforget.batch import batch_size as count_samples
from fastforget.capture import sum_dtype
from fastforget.diagonal import Definition, FisherDiagonal
from fastforget.fingerprint import fingerprint
from fastforget.fisher_run import Run, undisturbed
from fastforget.labels import Labels, Loss
from fastforget.losses import cross_entropy, describe
from fastforget.model import eager, watched_parameters
from fastforget.waiting import Checks

__all__ = ["FisherDiagonal", "Loss", "cross_entropy", "fisher_diagonal"]


def fisher_diagonal(
    model: nn.Module,
    inputs: Inputs,
    targets: Any = None,
    *,
    loss: Loss = cross_entropy,
    weights: Tensor | None = None,
    labels: Literal["given", "expectation", "sampled"] = "given",
    generator: torch.Generator | None = None,
    draws: int = 1,
    square: Literal["sample", "batch"] = "sample",
    batch_size: int | None = None,
    reduction: Literal["mean", "sum"] | None = None,
    into: FisherDiagonal | None = None,
    parameters: Iterable[str] | None = None,
    with_gradient: bool = False,
) -> FisherDiagonal:
    r"""Compute the diagonal of the Fisher information matrix, or one of its usual substitutes.

    For parameter i, with per-sample losses L_n and weights w_n (1 unless given)::

        F_i = sum_n w_n (dL_n / dtheta_i)^2 / sum_n w_n                      labels="given", the empirical Fisher
        F_i = sum_n w_n sum_c p(c|x_n) (dL_nc / dtheta_i)^2 / sum_n w_n      labels="expectation", the Fisher

    where L_nc = -log p(c|x_n) is the loss of sample n with label c. ``labels="sampled"`` replaces the sum over c by
    labels drawn from p. The square is taken per sample, inside the sum, so the result does not depend on the batch
    size or on the order of the samples, unless ``square="batch"`` asks for the square of each batch's mean gradient::

        F_i = sum_b (d mean_{n in b} L_n / dtheta_i)^2 / number of batches   square="batch"

    See ``docs/fisher.md`` for the kernels and for which paper means which. Per-sample gradients are never stored. A
    parameter used in a way that no kernel covers is computed sample by sample with autograd instead, and named in
    ``fallback``. The model's parameters, gradients, flags, buffers, mode, hooks and the random state are left as they
    were, also after an error. Everything runs on the model's device, which must be that of the inputs; on a CUDA device
    the host waits for it once, at the end, to read whether all values were finite.

    Source: Kunstner et al., "Limitations of the empirical Fisher approximation", NeurIPS 2019, Eq. 2 and 3.

    Args:
        model: A module in eval mode, as far as batch norm and dropout are concerned.
        inputs: A tensor [N, ...], or a tuple or dict of them, as the model's forward takes.
        targets: What the loss takes beside the model's outputs, for instance class labels [N]; None with labels of
            the model's own.
        loss: ``loss(outputs, targets)`` returns one loss per sample, [N]; the loss of sample n may depend
            on row n of outputs and targets only. With labels of the model's own, the negative log-likelihood of
            classes from logits [N, C].
        weights: Non-negative weights [N], or [G, N] for the Fisher of G groups from one backward.
        labels: "given", "expectation" (one forward and C backwards) or "sampled" (one forward and ``draws`` backwards).
        generator: With "sampled", the source of the draws, on the model's device.
        draws: With "sampled", labels drawn per sample; their mean is taken.
        square: "sample" or "batch", see above.
        batch_size: With "batch", samples per batch, taken in order; the last may be smaller. All N by default.
        reduction: ``"mean"`` (the default) divides by the sum of the weights, ``"sum"`` does not, and notes the
            model's fingerprint, for a read of the model, so that sums can be added and saved.
        into: A sum of the same kind, to which this one is added in place, and which is returned. Beside it, one
            result exists at a time, however many batches there are.
        parameters: Names of the parameters to compute; all of them by default.
        with_gradient: Also return the mean (or sum) of the per-sample gradients.

    Returns:
        A dict from parameter name to tensor of the parameter's shape, [G, *shape] for weights [G, N];
        float64 for float64 parameters, else float32.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument has a wrong value or shape, a NaN or infinite input or loss, arguments do not go
            together, batch norm or dropout is in train mode, or a parameter is frozen, quantised or an inference
            tensor.
        NotImplementedError: The parameters are on a device without kernels.

    Example:
        >>> model = torch.nn.Linear(3, 2).eval()
        >>> fisher = fisher_diagonal(model, torch.randn(5, 3), torch.tensor([0, 1, 0, 1, 1]))
        >>> fisher["weight"].shape
        torch.Size([2, 3])
    """
    model = eager(model)
    source = Labels(labels, generator, draws)
    source.check(targets, square=square, needs_targets=loss is cross_entropy)
    _check_square(square, batch_size, weights)
    summed = _is_sum(reduction, into)
    watched = watched_parameters(model, parameters)
    samples = count_samples(inputs, targets)
    checks = Checks()
    check_finite(inputs, checks)
    size = batch_size or samples
    units = samples if square == "sample" else -(-samples // size)
    like = next(iter(watched.values()))
    source.check_generator(like.device)
    rows = _group_weights(weights, units, like, checks)
    grouped = weights is not None and weights.dim() == 2
    facts = {"samples": samples, "definition": Definition(labels, square, *describe(loss))}
    facts["model"] = fingerprint(model) if summed else None
    if into is not None:
        into.check_compatible(_blank(watched, (len(rows),) if grouped else (), facts, with_gradient=with_gradient))
    with undisturbed(model):
        settings = {"mean": not summed, "with_gradient": with_gradient}
        run = Run(model, watched, inputs, targets, rows, loss=loss, labels=source, checks=checks, **settings)
        if square == "sample":
            run.by_sample()
        else:
            run.by_batch(size)
        checks.settle()
        found = run.result(grouped=grouped, **facts)
    if into is None:
        return found
    into += found
    return into


def _blank(
    parameters: dict[str, Tensor], groups: tuple[int, ...], facts: dict[str, Any], *, with_gradient: bool
) -> FisherDiagonal:
    """What the sum will be like, without values."""
    values = {
        name: torch.empty((*groups, *p.shape), dtype=sum_dtype(p.dtype), device="meta")
        for name, p in parameters.items()
    }
    gradient = values if with_gradient else None
    weight = torch.empty(groups, device="meta")
    return FisherDiagonal(
        values, gradient=gradient, fallback={}, losses=torch.empty(0), reduction="sum", weight=weight, **facts
    )


def _check_square(square: str, batch_size: int | None, weights: Tensor | None) -> None:
    if square not in ("sample", "batch"):
        raise ValueError(f'`square` must be "sample" or "batch", got {square!r}')
    if batch_size is not None:
        if isinstance(batch_size, bool) or not isinstance(batch_size, int):
            raise TypeError(f"`batch_size` must be an int, got {type(batch_size).__name__}")
        if square != "batch":
            raise ValueError('`batch_size` must be left out with square="sample", which no batch size changes')
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, got {batch_size}")
    if square == "batch" and weights is not None:
        raise ValueError('`weights` must be None with square="batch", which has no square per sample to weigh')


def _is_sum(reduction: str | None, into: FisherDiagonal | None) -> bool:
    if reduction not in (None, "mean", "sum"):
        raise ValueError(f'`reduction` must be "mean" or "sum", got {reduction!r}')
    if into is None:
        return reduction == "sum"
    if not isinstance(into, FisherDiagonal):
        raise TypeError(f"`into` must be a FisherDiagonal, got {type(into).__name__}")
    into.check_sum("`into`")
    if reduction == "mean":
        raise ValueError("`reduction` must be \"sum\" with `into`, got 'mean'")
    return True


def _group_weights(weights: Tensor | None, samples: int, like: Tensor, checks: Checks) -> Tensor:
    dtype = sum_dtype(like.dtype)
    if weights is None:
        return torch.ones(1, samples, dtype=dtype, device=like.device)
    if weights.dim() not in (1, 2) or weights.shape[-1] != samples or weights.numel() == 0:
        raise ValueError(f"`weights` must have shape ({samples},) or (G, {samples}), got {tuple(weights.shape)}")
    weights = weights.detach().to(dtype=dtype, device=like.device).reshape(-1, samples).contiguous()

    def unfit() -> None:
        raise ValueError("`weights` must be finite and not negative")

    def empty() -> None:
        raise ValueError("`weights` must have a positive sum in every group")

    checks.add((torch.isfinite(weights) & (weights >= 0)).all(), bool, unfit)
    checks.add((weights.sum(1) == 0).any(), operator.not_, empty)
    return weights
