"""The diagonal Fisher information of every parameter, from one forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils import _pytree as pytree

from fastforget import ops
from fastforget.batch import Inputs, batch_size, check_finite, forward, split_samples, tensors_of
from fastforget.capture import Capture
from fastforget.layout import Layout, Unknown
from fastforget.model import eager, watched_parameters
from fastforget.uses import Use, sum_dtype

__all__ = ["FisherDiagonal", "cross_entropy", "fisher_diagonal"]

Loss = Callable[[Any, Any], Tensor]


class FisherDiagonal(dict[str, Tensor]):
    """Diagonal Fisher information by parameter name, with what is known about how it was computed.

    Attributes:
        gradient: The weighted mean (or sum) of the per-sample gradients, same names and shapes, or None.
        fallback: Parameters that no fused kernel covered, with the reason; their values are exact too.
        losses: The loss of each sample, [N].
    """

    def __init__(
        self,
        values: Mapping[str, Tensor],
        *,
        gradient: dict[str, Tensor] | None,
        fallback: dict[str, str],
        losses: Tensor,
    ) -> None:
        """Hold ``values``; see the class attributes for the rest."""
        super().__init__(values)
        self.gradient = gradient
        self.fallback = fallback
        self.losses = losses


def cross_entropy(outputs: Any, targets: Tensor) -> Tensor:
    """Return the cross-entropy of each sample, [N], from logits [N, C] (or an object with ``.logits``)."""
    logits = outputs if isinstance(outputs, Tensor) else outputs.logits
    return F.cross_entropy(logits, targets, reduction="none")


def fisher_diagonal(
    model: nn.Module,
    inputs: Inputs,
    targets: Any,
    *,
    loss: Loss = cross_entropy,
    weights: Tensor | None = None,
    reduction: str = "mean",
    parameters: Iterable[str] | None = None,
    with_gradient: bool = False,
) -> FisherDiagonal:
    r"""Compute the diagonal of the empirical Fisher information matrix.

    For parameter i, with per-sample losses L_n and weights w_n (1 unless given)::

        F_i = sum_n w_n (dL_n / dtheta_i)^2 / sum_n w_n

    The square is taken per sample, inside the sum, so the result does not depend on the batch size or on
    the order of the samples. Per-sample gradients are never stored; see ``docs`` for the kernels. A
    parameter used in a way that no kernel covers is computed sample by sample with autograd instead, and
    named in ``fallback``. The model's parameters, gradients, flags, buffers, mode, hooks and the random
    state are left as they were, also after an error.

    Source: Kunstner et al., "Limitations of the empirical Fisher approximation", NeurIPS 2019, Eq. 3.

    Args:
        model: A module in eval mode, as far as batch norm and dropout are concerned.
        inputs: A tensor [N, ...], or a tuple or dict of them, as the model's forward takes.
        targets: What the loss takes beside the model's outputs, for instance class labels [N].
        loss: ``loss(outputs, targets)`` returns one loss per sample, [N]; the loss of sample n may depend
            on row n of outputs and targets only.
        weights: Non-negative weights [N], or [G, N] for the Fisher of G groups from one backward.
        reduction: ``"mean"`` divides by the sum of the weights, ``"sum"`` does not.
        parameters: Names of the parameters to compute; all of them by default.
        with_gradient: Also return the mean (or sum) of the per-sample gradients.

    Returns:
        A dict from parameter name to tensor of the parameter's shape, [G, *shape] for weights [G, N];
        float64 for float64 parameters, else float32.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument has a wrong value or shape, a NaN or infinite input or loss, batch norm or
            dropout is in train mode, or a parameter is frozen, quantised or an inference tensor.
        NotImplementedError: The parameters are on a device without kernels.

    Example:
        >>> model = torch.nn.Linear(3, 2).eval()
        >>> fisher = fisher_diagonal(model, torch.randn(5, 3), torch.tensor([0, 1, 0, 1, 1]))
        >>> fisher["weight"].shape
        torch.Size([2, 3])
    """
    model = eager(model)
    if reduction not in ("mean", "sum"):
        raise ValueError(f'`reduction` must be "mean" or "sum", got {reduction!r}')
    watched = watched_parameters(model, parameters)
    samples = batch_size(inputs, targets)
    check_finite(inputs)
    groups = _group_weights(weights, samples, next(iter(watched.values())))
    with _undisturbed(model):
        run = _Run(model, watched, inputs, targets, loss, groups, with_gradient=with_gradient)
        run.fused()
        run.per_sample()
    return run.result(reduction=reduction, grouped=weights is not None and weights.dim() == 2)


def _group_weights(weights: Tensor | None, samples: int, like: Tensor) -> Tensor:
    dtype = sum_dtype(like.dtype)
    if weights is None:
        return torch.ones(1, samples, dtype=dtype, device=like.device)
    if weights.dim() not in (1, 2) or weights.shape[-1] != samples or weights.numel() == 0:
        raise ValueError(f"`weights` must have shape ({samples},) or (G, {samples}), got {tuple(weights.shape)}")
    weights = weights.detach().to(dtype=dtype, device=like.device).reshape(-1, samples).contiguous()
    if not bool(torch.isfinite(weights).all()) or bool((weights < 0).any()):
        raise ValueError("`weights` must be finite and not negative")
    if bool((weights.sum(1) == 0).any()):
        raise ValueError("`weights` must have a positive sum in every group")
    return weights


def _ordinary(tensor: Tensor) -> Tensor:
    """Return a tensor that autograd may save; those made under inference mode are copied."""
    return tensor.clone() if tensor.is_inference() else tensor


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Gradients on, whatever the caller has set; the random state is put back afterwards."""
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=list(devices)):
        yield


class _Run:
    """One computation: the accumulators and the two ways to fill them."""

    def __init__(
        self,
        model: nn.Module,
        watched: dict[str, Tensor],
        inputs: Inputs,
        targets: Any,
        loss: Loss,
        weights: Tensor,
        *,
        with_gradient: bool,
    ) -> None:
        inputs, targets, weights = pytree.tree_map_only(Tensor, _ordinary, (inputs, targets, weights))
        self.model, self.inputs, self.targets, self.loss, self.weights = model, inputs, targets, loss, weights
        self.leaves = {name: parameter.detach().requires_grad_() for name, parameter in watched.items()}
        self.others = {name: p.detach() for name, p in model.named_parameters() if name not in watched}
        self.fisher = self._zeros()
        self.gradient = self._zeros() if with_gradient else None
        self.fallback: dict[str, str] = {}
        self.losses = torch.empty(0)
        self._capture: Capture | None = None
        self._waiting: dict[str, list[tuple[Use, Tensor, tuple[Tensor, ...]]]] = {}

    def _zeros(self) -> dict[str, Tensor]:
        groups = self.weights.shape[0]
        return {
            name: torch.zeros((groups, *leaf.shape), dtype=sum_dtype(leaf.dtype), device=leaf.device)
            for name, leaf in self.leaves.items()
        }

    def _forward(self, inputs: Inputs, leaves: Mapping[str, Tensor]) -> Any:
        """Run the model with ``leaves`` and its other parameters detached, on copies of its buffers."""
        buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        return forward(lambda *a, **k: functional_call(self.model, {**self.others, **leaves, **buffers}, a, k), inputs)

    def _losses(self, outputs: Any, targets: Any, samples: int) -> Tensor:
        losses = self.loss(outputs, targets)
        if not isinstance(losses, Tensor) or losses.shape != (samples,):
            got = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
            raise ValueError(f"`loss` must return one loss per sample, shape ({samples},), got {got}")
        bad = ~torch.isfinite(losses.detach())
        if bool(bad.any()):
            raise ValueError(f"the loss of sample {int(bad.nonzero()[0])} is {losses[bad][0].item()}")
        return losses

    def fused(self) -> None:
        """One forward and backward over the batch; parameters the kernels cannot serve go to ``fallback``."""
        samples = self.weights.shape[1]
        capture = self._capture = Capture(self.leaves, samples, self._collect)
        for tensor in tensors_of(self.inputs):
            capture.track(tensor, Layout(0))
        random = torch.get_rng_state()
        with capture:
            outputs = self._forward(self.inputs, self.leaves)
        if not torch.equal(random, torch.get_rng_state()):
            raise ValueError(
                "the model must not draw random numbers (active dropout, for instance): the Fisher of a random network "
                "is not defined; call model.eval() first"
            )
        losses = self._losses(outputs, self.targets, samples)
        self.losses = losses.detach()
        for output in tensors_of(outputs):
            state = capture.state(output)
            one = samples == 1 and isinstance(state, Layout)  # which may seem to lie along any dimension of size one
            if state != Layout(0) and not one and output.requires_grad:
                reason = state.reason if isinstance(state, Unknown) else "the outputs do not keep the samples in order"
                self.fallback = dict.fromkeys(self.leaves, reason)
                return
        leaves = list(self.leaves.values())
        grads = torch.autograd.grad(losses.sum(), leaves, allow_unused=True) if losses.requires_grad else ()
        for (name, leaf), grad in zip(self.leaves.items(), grads, strict=False):
            if grad is not None:
                self.fallback[name] = f"a use of shape {tuple(leaf.shape)} that no kernel covers"
        self._sum_repeated_uses()

    def _collect(self, use: Use, grad: Tensor, operands: tuple[Tensor, ...]) -> None:
        """Receive, during backward, the gradient that arrives at one use of a parameter."""
        assert self._capture is not None  # noqa: S101 - for the type checker
        if len(self._capture.uses[use.name]) > 1:
            # The sum over uses comes before the square: wait for the others.
            self._waiting.setdefault(use.name, []).append((use, grad, operands))
            return
        gradient = None if self.gradient is None else self.gradient[use.name]
        _accumulate(use, grad, operands, self.weights, self.fisher[use.name], gradient)

    def _sum_repeated_uses(self) -> None:
        """Parameters used more than once: one sample's gradient at a time, summed over the uses."""
        for name, uses in self._waiting.items():
            if name in self.fallback:
                continue
            one = torch.zeros(1, self.weights.shape[1], dtype=self.weights.dtype, device=self.weights.device)
            per_sample = torch.zeros_like(self.fisher[name][:1])
            for n in range(self.weights.shape[1]):
                one.zero_()[0, n] = 1
                per_sample.zero_()
                for use, grad, operands in uses:
                    _accumulate(use, grad, operands, one, None, per_sample)
                self._add_sample(name, n, per_sample[0])
        self._waiting.clear()

    def _add_sample(self, name: str, n: int, per_sample: Tensor) -> None:
        groups = len(self.weights)
        flat = per_sample.to(self.fisher[name].dtype).reshape(1, 1, -1, 1)
        ops.fisher_affine(
            flat,
            None,
            None,
            None,
            self.weights[:, n : n + 1].contiguous(),
            shift_fisher=self.fisher[name].view(groups, flat.shape[2]),
            shift_gradient=None if self.gradient is None else self.gradient[name].view(groups, flat.shape[2]),
        )

    def per_sample(self) -> None:
        """Exact path for ``fallback``: a forward and backward for each sample alone."""
        if not self.fallback:
            return
        for name in self.fallback:
            self.fisher[name].zero_()
            if self.gradient is not None:
                self.gradient[name].zero_()
        leaves = {n: leaf if n in self.fallback else leaf.detach() for n, leaf in self.leaves.items()}
        wanted = [self.leaves[name] for name in self.fallback]
        for n, (inputs, targets) in enumerate(split_samples(self.inputs, self.targets, self.weights.shape[1])):
            losses = self._losses(self._forward(inputs, leaves), targets, 1)
            grads = torch.autograd.grad(losses.sum(), wanted, allow_unused=True)
            for name, grad in zip(self.fallback, grads, strict=True):
                if grad is not None:
                    self._add_sample(name, n, grad)

    def result(self, *, reduction: str, grouped: bool) -> FisherDiagonal:
        """Divide by the weights if asked to and drop the group dimension if there were no groups."""

        def finish(sums: dict[str, Tensor]) -> dict[str, Tensor]:
            if reduction == "mean":
                totals = self.weights.sum(1)
                for value in sums.values():
                    value.div_(totals.view(-1, *[1] * (value.dim() - 1)))
            return {name: value if grouped else value[0] for name, value in sums.items()}

        gradient = None if self.gradient is None else finish(self.gradient)
        return FisherDiagonal(finish(self.fisher), gradient=gradient, fallback=self.fallback, losses=self.losses)


def _accumulate(
    use: Use,
    grad: Tensor,
    operands: tuple[Tensor, ...],
    weights: Tensor,
    fisher: Tensor | None,
    gradient: Tensor | None,
) -> None:
    """Run a use's kernel on the whole parameter, or on the part of it that was used."""
    if use.view is None:
        use.accumulate(grad, operands, weights, fisher, gradient)
        return
    size, stride, offset = use.view
    results = (fisher, gradient)
    parts = [r if r is None else r.new_zeros((r.shape[0], *size)) for r in results]
    use.accumulate(grad, operands, weights, parts[0], parts[1])
    for result, part in zip(results, parts, strict=True):
        if result is not None and part is not None:
            for whole, piece in zip(result, part, strict=True):
                whole.as_strided(size, stride, whole.storage_offset() + offset).add_(piece)
