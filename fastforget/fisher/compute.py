"""The diagonal Fisher information of every parameter, from one forward and backward."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fastforget.classifier.compilation import eager, prefix_of
from fastforget.classifier.devices import DeferredChecks
from fastforget.classifier.fingerprint import fingerprint
from fastforget.classifier.inputs import Inputs, check_finite, count_samples, plain
from fastforget.classifier.losses import Loss, cross_entropy
from fastforget.classifier.parameters import chosen_parameters
from fastforget.classifier.targets import as_classes, check_class_targets
from fastforget.fisher.diagonal import Definition, FisherDiagonal
from fastforget.fisher.dtypes import sum_dtype
from fastforget.fisher.labels import LabelSource
from fastforget.fisher.leaf_model import LeafModel, taking_gradients
from fastforget.fisher.passes import Passes, PassResults
from fastforget.fisher.samples import WeightedSamples, weights_by_group
from fastforget.fisher.settings import Settings

__all__ = ["FisherDiagonal", "Loss", "cross_entropy", "fisher_diagonal"]


def fisher_diagonal(
    model: nn.Module,
    inputs: Inputs | Mapping[str, Any],
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

    See ``docs/explain/fisher.md`` for the kernels, and for the papers that mean each of these. Per-sample gradients are
    never stored. A parameter used in a way that no kernel covers is computed sample by sample with autograd instead,
    and named in ``fallback``. The model's parameters, gradients, flags, buffers, mode, hooks and the random state are
    left as they were, also after an error. Everything runs on the model's device, where the inputs must be too. The
    host waits for a CUDA device once, at the end, to read whether all values were finite.

    Source: Kunstner et al., "Limitations of the empirical Fisher approximation", NeurIPS 2019, Eq. 2 and 3.

    Args:
        model: A module whose batch norms and dropouts are in eval mode.
        inputs: A tensor [N, ...], or a tuple or mapping of them, as the model's forward takes.
        targets: What the loss takes beside the model's outputs, for instance class labels [N]; None if the labels are
            the model's own. The default loss takes labels in a list or NumPy array of integers too.
        loss: ``loss(outputs, targets)`` returns one loss per sample, [N]; the loss of sample n may depend
            on row n of outputs and targets only. With labels of the model's own, it must be the negative log-likelihood
            of classes from logits [N, C].
        weights: Non-negative weights [N], or [G, N] for the Fisher of G groups from one backward.
        labels: "given", "expectation" (one forward and C backwards) or "sampled" (one forward and ``draws`` backwards).
        generator: With "sampled", the source of the draws, on the model's device.
        draws: With "sampled", how many labels are drawn per sample; the mean over them is taken.
        square: "sample" or "batch", see above.
        batch_size: With "batch", samples per batch, taken in order; the last may be smaller. All N by default.
        reduction: ``"mean"`` (the default) divides by the sum of the weights. ``"sum"`` does not, and reads the model
            once for its fingerprint, so that sums can be added and saved.
        into: A sum of the same kind, to which this one is added in place, and which is returned. However many batches
            there are, only one more result exists at a time.
        parameters: Names of the parameters to compute; all of them by default.
        with_gradient: Also return the mean (or sum) of the per-sample gradients.

    Returns:
        A dict from parameter name to tensor of the parameter's shape, [G, *shape] for weights [G, N];
        float64 for float64 parameters, else float32.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument has a wrong value or shape, arguments do not go together, an input or loss is NaN or
            infinite, batch norm or dropout is in train mode, or a parameter is frozen, quantised or an inference
            tensor.
        NotImplementedError: The parameters are on a device without kernels.

    Example:
        >>> model = torch.nn.Linear(3, 2).eval()
        >>> fisher = fisher_diagonal(model, torch.randn(5, 3), torch.tensor([0, 1, 0, 1, 1]))
        >>> fisher["weight"].shape
        torch.Size([2, 3])
    """
    model, prefix, given = eager(model), prefix_of(model), plain(inputs)
    settings = Settings(loss, LabelSource(labels, generator, draws), square, batch_size, with_gradient)
    settings.check(targets, weights)
    is_sum = _check_reduction(reduction, into)
    watched = chosen_parameters(model, parameters)
    if loss is cross_entropy and targets is not None:
        targets = _classes_of(targets, next(iter(watched.values())).device)
    count, checks, first = count_samples(given, targets), DeferredChecks(), next(iter(watched.values()))
    check_finite(given, checks)
    settings.labels.check_generator(first.device)
    rows = weights_by_group(weights, settings.count_squares(count), first, checks)
    grouped = weights is not None and weights.dim() == 2
    facts = _Facts(count, settings.definition(), fingerprint(model) if is_sum else None)
    if into is not None:
        groups = (len(rows),) if grouped else ()
        into.check_compatible(_without_values(watched, groups, facts, with_gradient=with_gradient))
    with taking_gradients(model):
        samples = WeightedSamples.prepare(given, targets, count, rows, mean=not is_sum)
        results = Passes(LeafModel(model, watched), samples, settings, checks).run()
        checks.finish()
        result = _diagonal(results, samples, facts, grouped=grouped, is_sum=is_sum)
    if into is None:
        result.prefix = prefix
        return result
    into += result
    return into


def _classes_of(targets: Any, device: torch.device) -> Any:
    """Return classes as a tensor, where they were given in another form."""
    classes = as_classes(targets)
    check_class_targets(classes, "targets")
    return classes if classes is targets else classes.to(device)


@dataclass(frozen=True)
class _Facts:
    """What is known of a Fisher diagonal before it is computed."""

    samples: int
    definition: Definition
    model: str | None


def _diagonal(
    results: PassResults, samples: WeightedSamples, facts: _Facts, *, grouped: bool, is_sum: bool
) -> FisherDiagonal:
    """Return what the passes added up, without the dimension of the groups unless ``grouped``."""
    fisher, gradient = results.sums.results(grouped=grouped)
    return FisherDiagonal(
        fisher,
        gradient=gradient,
        fallback=results.fallback,
        losses=results.losses,
        reduction="sum" if is_sum else "mean",
        weight=samples.weight_sums if grouped else samples.weight_sums[0],
        **vars(facts),
    )


def _without_values(
    parameters: Mapping[str, Tensor], groups: tuple[int, ...], facts: _Facts, *, with_gradient: bool
) -> FisherDiagonal:
    """Return a sum like the one to be computed, with its names, shapes and facts, on the meta device."""
    values = {
        name: torch.empty((*groups, *p.shape), dtype=sum_dtype(p.dtype), device="meta")
        for name, p in parameters.items()
    }
    gradient = values if with_gradient else None
    weight = torch.empty(groups, device="meta")
    return FisherDiagonal(
        values, gradient=gradient, fallback={}, losses=torch.empty(0), reduction="sum", weight=weight, **vars(facts)
    )


def _check_reduction(reduction: str | None, into: FisherDiagonal | None) -> bool:
    """Return whether a sum is wanted, after checking the arguments that say so."""
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
