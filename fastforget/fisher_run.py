"""One run of `fisher_diagonal`: the accumulators and the ways to fill them."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils import _pytree as pytree

from fastforget import ops
from fastforget.batch import Inputs, forward, split_samples, tensors_of
from fastforget.capture import (
    Capture,
    KeepActivations,
    Layout,
    Sums,
    Unknown,
    Use,
    autocasts,
    keep_activations,
    sum_dtype,
)
from fastforget.diagonal import FisherDiagonal
from fastforget.labels import Labels, Loss, Pass
from fastforget.model import recurrent_backward, uncompiled
from fastforget.waiting import Checks, random_devices

__all__ = ["Run", "undisturbed"]


def _ordinary(tensor: Tensor) -> Tensor:
    """Return a tensor without a gradient that autograd may save; those made under inference mode are copied."""
    return tensor.clone() if tensor.is_inference() else tensor.detach()


def _row_major(inputs: Inputs) -> Inputs:
    """Contiguous inputs for a sample alone: PyTorch 2.13 crashes then in backward of a channels-last group norm."""
    contiguous: Inputs = pytree.tree_map_only(Tensor, Tensor.contiguous, inputs)
    return contiguous


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Gradients on, whatever the caller has set; the random state is put back afterwards."""
    random = torch.random.fork_rng(devices=random_devices(*model.parameters()))
    # what is computed is watched, call by call, which torch.compile would hide
    with torch.inference_mode(False), torch.enable_grad(), random, recurrent_backward(model), uncompiled(model):
        yield


class Run:
    """One computation.

    Attributes:
        weights: Weights of the samples, [G, N]; of the batches, [1, B], for `by_batch`, divided
            by their sum for a mean.
        fisher: Sums of squares by name, [G, *shape]; missing ones are zero.
        gradient: Sums of gradients alike, or None.
        fallback: Parameters that no kernel covered, with the reason.
        losses: The loss of each sample, or batch.
    """

    def __init__(
        self,
        model: nn.Module,
        watched: dict[str, Tensor],
        inputs: Inputs,
        targets: Any,
        weights: Tensor,
        *,
        loss: Loss,
        labels: Labels,
        checks: Checks,
        mean: bool,
        with_gradient: bool,
    ) -> None:
        """Start with empty sums; for a mean the weights are divided instead of every result."""
        inputs, targets, weights = pytree.tree_map_only(Tensor, _ordinary, (inputs, targets, weights))
        self._mean, self._totals = mean, weights.double().sum(1)
        self.weights, self.fallback = weights, dict[str, str]()
        if mean:
            self.weights = weights = (weights.double() / self._totals[:, None]).to(weights.dtype)
        self._model, self._inputs, self._targets, self._loss, self._labels = model, inputs, targets, loss, labels
        self._checks = checks
        self._leaves = {name: parameter.detach().requires_grad_() for name, parameter in watched.items()}
        self._others = {name: p.detach() for name, p in model.named_parameters() if name not in watched}
        self._devices = random_devices(*self._leaves.values(), *self._others.values())
        # Every name of a parameter with the first: then nobody needs to look for ties at each forward.
        first = {id(parameter): name for name, parameter in model.named_parameters()}
        self._names = {name: first[id(p)] for name, p in model.named_parameters(remove_duplicate=False)}
        self.fisher: dict[str, Tensor] = {}
        self.gradient: dict[str, Tensor] | None = {} if with_gradient else None
        self.losses = torch.empty(0)
        # Not the capture, which leads back here: results must go when the caller drops them, not with the next cycle.
        self._uses: dict[str, int] = {}
        self._passes: list[Pass] = []
        self._weights = weights  # of the pass that runs
        self._waiting: dict[str, list[tuple[Use, Tensor, tuple[Tensor, ...]]]] = {}

    def by_sample(self) -> None:
        """One forward, and a backward per pass; then, sample by sample, what the kernels could not serve."""
        samples = self.weights.shape[1]
        # What autograd gives for a single sample is that sample's gradient, unless it rounds it to a narrow type.
        alone = samples == 1 and not any(map(_narrow, self._leaves.values()))
        capture = Capture({} if alone else self._leaves, samples, self._collect)
        self._uses = capture.uses
        outputs = self._watched_forward(capture, self._inputs)
        self._passes = self._labels.passes(self._loss, outputs, self._targets, self._checks)
        disorder = None if alone else _disorder(capture, outputs)
        if disorder:
            self.fallback.update(dict.fromkeys(self._leaves, disorder))
        counted = []
        for left, (targets, share) in zip(reversed(range(len(self._passes))), self._passes, strict=True):
            losses = self._losses(outputs, targets, samples)
            counted.append(losses.detach() if share is None else losses.detach() * share)
            self._weights = self._weigh(share)
            if not disorder and losses.requires_grad:
                backward = self._add_alone if alone else self._add_fused
                with capture.listening(retain=left > 0):
                    backward(losses, self._weights, list(self._leaves), retain_graph=left > 0)
        self.losses = sum(counted[1:], 0.0 + counted[0])  # where they are
        if self.fallback:
            self._sample_by_sample()

    def by_batch(self, size: int) -> None:
        """A forward and backward for each batch, whose mean loss counts as the loss of one sample."""
        means = []
        samples = len(tensors_of(self._inputs)[0])
        for b, (inputs, targets) in enumerate(split_samples(self._inputs, self._targets, samples, size)):
            count = min(size, samples - b * size)
            outputs = self._watched_forward(Capture({}, count, self._collect), inputs)
            losses = self._losses(outputs, targets, count)
            means.append(losses.detach().mean())
            if losses.requires_grad:
                self._add_alone(losses / count, self.weights[:, b : b + 1], list(self._leaves))
        self.losses = torch.stack(means)

    def result(self, *, grouped: bool, **facts: Any) -> FisherDiagonal:
        """Return the sums (or means), without the dimension of the groups if there are none, and what else is known."""

        def finished(sums: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: self._sum(sums, name)[slice(None) if grouped else 0] for name in self._leaves}

        return FisherDiagonal(
            finished(self.fisher),
            gradient=None if self.gradient is None else finished(self.gradient),
            fallback=self.fallback,
            losses=self.losses,
            reduction="mean" if self._mean else "sum",
            weight=self._totals if grouped else self._totals[0],
            **facts,
        )

    def _sum(self, sums: dict[str, Tensor], name: str, *, empty: bool = False) -> Tensor:
        """The sum of a parameter, [G, *shape], at first zero, or of any values where it is to be written."""
        if name not in sums:
            leaf, groups = self._leaves[name], self.weights.shape[0]
            create = torch.empty if empty else torch.zeros
            sums[name] = create((groups, *leaf.shape), dtype=sum_dtype(leaf.dtype), device=leaf.device)
        return sums[name]

    def _weigh(self, share: Tensor | None) -> Tensor:
        """The weights [G, N] of a pass."""
        return self.weights if share is None else (self.weights * share).to(self.weights.dtype)

    def _forward(self, mode: KeepActivations, inputs: Inputs, leaves: Mapping[str, Tensor]) -> Any:
        """Run the model under a mode with ``leaves`` and its other parameters detached, on copies of its buffers."""
        given = {**self._others, **leaves}
        values = {name: given[first] for name, first in self._names.items()}
        buffers = dict(self._model.named_buffers(remove_duplicate=False))
        copies = {id(buffer): buffer.detach().clone() for buffer in buffers.values()}
        values.update((name, copies[id(buffer)]) for name, buffer in buffers.items())
        with keep_activations(mode):
            return forward(lambda *a, **k: functional_call(self._model, values, a, k, tie_weights=False), inputs)

    def _watched_forward(self, capture: Capture, inputs: Inputs) -> Any:
        """Run the model under a capture, and refuse a random one."""
        if capture.samples == 1:
            inputs = _row_major(inputs)
        for tensor in tensors_of(inputs):
            capture.track(tensor, Layout(0))
        random = self._random()
        outputs = self._forward(capture, inputs, self._leaves)
        if not all(map(torch.equal, random, self._random())):
            raise ValueError(
                "the model must not draw random numbers (active dropout, for instance): the Fisher of a random network "
                "is not defined; call model.eval() first"
            )
        return outputs

    def _random(self) -> list[Tensor]:
        """The states of the generators that the model may draw from; all of them are on the host."""
        return [torch.get_rng_state(), *map(torch.cuda.get_rng_state, self._devices)]

    def _losses(self, outputs: Any, targets: Any, samples: int) -> Tensor:
        losses = self._loss(outputs, targets)
        if not isinstance(losses, Tensor) or losses.shape != (samples,):
            got = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
            raise ValueError(f"`loss` must return one loss per sample, shape ({samples},), got {got}")
        values = losses.detach()
        bad = ~torch.isfinite(values)

        def complain() -> None:
            raise ValueError(f"the loss of sample {int(bad.nonzero()[0])} is {values[bad][0].item()}")

        self._checks.add(bad.any(), operator.not_, complain)
        return losses

    def _add_fused(self, losses: Tensor, _: Tensor, names: list[str], *, retain_graph: bool = False) -> None:
        """Backward through the taps; parameters the kernels cannot serve go to ``fallback``."""
        leaves = [self._leaves[name] for name in names]
        grads = torch.autograd.grad(losses.sum(), leaves, allow_unused=True, retain_graph=retain_graph)
        for name, leaf, grad in zip(names, leaves, grads, strict=True):
            if grad is not None:
                self.fallback[name] = f"a use of shape {tuple(leaf.shape)} that no kernel covers"
        self._sum_repeated_uses()

    def _add_alone(self, losses: Tensor, weights: Tensor, names: list[str], *, retain_graph: bool = False) -> None:
        """Backward of one sample, or of what counts as one, of weights [G, 1]."""
        leaves = [self._leaves[name] for name in names]
        grads = torch.autograd.grad(losses.sum(), leaves, allow_unused=True, retain_graph=retain_graph)
        shared = Counter[int]()
        own = self.gradient is not None and not retain_graph and self.gradient.keys().isdisjoint(names)
        if own:  # the first sample's gradients may become the result
            others = [*self._leaves.values(), *self._others.values(), *tensors_of((self._inputs, self._targets))]
            shared.update(_memory(tensor) for tensor in (*others, *grads) if tensor is not None)
        for name, grad in zip(names, grads, strict=True):
            if grad is not None:
                self._add_sample(name, weights, grad, own=own and shared[_memory(grad)] == 1)

    def _collect(self, use: Use, grad: Tensor, operands: tuple[Tensor, ...]) -> None:
        """Receive, during backward, the gradient that arrives at one use of a parameter, and of its partner."""
        uses, partner = self._uses, use.partner
        if partner and use.accumulate_both and all(uses[u.name] == 1 and u.view is None for u in (use, partner)):
            use.accumulate_both(grad, operands, self._weights, self._sums(use), self._sums(partner))
            return
        for one in (use, partner):
            if one and uses[one.name] > 1:
                # The sum over uses comes before the square: wait for the others.
                self._waiting.setdefault(one.name, []).append((one, grad, operands))
            elif one:
                _accumulate(one, grad, operands, self._weights, self._sums(one))

    def _sums(self, use: Use) -> Sums:
        """The sums of the parameter of its only use."""
        every = [self.fisher] if self.gradient is None else [self.fisher, self.gradient]
        empty = use.overwrites and use.view is None and use.name not in self.fisher
        found = [self._sum(sums, use.name, empty=empty) for sums in every]
        return Sums(found[0], found[1] if len(found) > 1 else None, empty)

    @torch.no_grad()
    def _sum_repeated_uses(self) -> None:
        """Parameters used more than once: one sample's gradient at a time, summed over the uses."""
        for name, uses in self._waiting.items():
            if name in self.fallback:
                continue
            one = torch.zeros(1, self.weights.shape[1], dtype=self.weights.dtype, device=self.weights.device)
            per_sample = torch.zeros_like(self._leaves[name], dtype=self.weights.dtype)[None]
            for n in range(self.weights.shape[1]):
                one.zero_()[0, n] = 1
                per_sample.zero_()
                for use, grad, operands in uses:
                    _accumulate(use, grad, operands, one, Sums(None, per_sample))
                self._add_sample(name, self._weights[:, n : n + 1], per_sample[0])
        self._waiting.clear()

    def _add_sample(self, name: str, weights: Tensor, per_sample: Tensor, *, own: bool = False) -> None:
        """Add one sample's gradient, of weights [G, 1]; if its memory is its ``own``, it may become the result."""
        values = per_sample.to(self.weights.dtype).contiguous()
        if name not in self.fisher and len(weights) == 1:
            # The first, and often the only one: written once, where adding to zeros would touch the memory twice.
            # A device would have to be waited for to know that it is one.
            weight = float(weights) if weights.is_cpu else weights[0, 0]
            one = weights.is_cpu and weight == 1
            self.fisher[name] = (values.square() if one else weight * values.square())[None]
            if self.gradient is not None:
                self.gradient[name] = (values if own and one else values * weight)[None]
            return
        groups, flat = len(weights), values.reshape(1, 1, -1, 1)
        gradient = None if self.gradient is None else self._sum(self.gradient, name).view(groups, flat.shape[2])
        ops.fisher_affine(
            flat,
            None,
            None,
            None,
            weights.contiguous(),
            shift_fisher=self._sum(self.fisher, name).view(groups, flat.shape[2]),
            shift_gradient=gradient,
        )

    def _sample_by_sample(self) -> None:
        """Exact path for ``fallback``: a forward, and a backward per pass, for each sample alone."""
        for name in self.fallback:
            for sums in (self.fisher, self.gradient or {}):
                sums.pop(name, None)
        names = list(self.fallback)
        leaves = {n: leaf if n in self.fallback else leaf.detach() for n, leaf in self._leaves.items()}
        targets, weights = zip(*((t, self._weigh(share)) for t, share in self._passes), strict=True)
        for n, (inputs, rows) in enumerate(split_samples(self._inputs, targets, self.weights.shape[1])):
            outputs = self._forward(KeepActivations(), _row_major(inputs), leaves)
            for left, row, of_pass in zip(reversed(range(len(rows))), rows, weights, strict=True):
                losses = self._losses(outputs, row, 1)
                self._add_alone(losses, of_pass[:, n : n + 1], names, retain_graph=left > 0)


def _narrow(leaf: Tensor) -> bool:
    """Whether autograd may round its gradient to a narrower type than that of the sums."""
    return leaf.dtype != sum_dtype(leaf.dtype) or autocasts(leaf)


def _memory(tensor: Tensor) -> int:
    """The storage of a tensor: autograd may hand out one gradient for two parameters, or an operand as a gradient."""
    return tensor.untyped_storage().data_ptr()


def _disorder(capture: Capture, outputs: Any) -> str | None:
    """Why the outputs cannot be told apart by sample, if so."""
    for output in tensors_of(outputs):
        state = capture.state(output)
        # A single sample may seem to lie along any dimension of size one.
        one = capture.samples == 1 and isinstance(state, Layout)
        if state != Layout(0) and not one and output.requires_grad:
            return state.reason if isinstance(state, Unknown) else "the outputs do not keep the samples in order"
    return None


def _accumulate(use: Use, grad: Tensor, operands: tuple[Tensor, ...], weights: Tensor, sums: Sums) -> None:
    """Run a use's kernel on the whole parameter, or on the part of it that was used."""
    if use.view is None:
        use.accumulate(grad, operands, weights, sums)
        return
    size, stride, offset = use.view
    results = (sums.fisher, sums.gradient)
    parts = [r if r is None else r.new_zeros((r.shape[0], *size)) for r in results]
    use.accumulate(grad, operands, weights, Sums(parts[0], parts[1]))
    for result, part in zip(results, parts, strict=True):
        if result is not None and part is not None:
            for whole, piece in zip(result, part, strict=True):
                whole.as_strided(size, stride, whole.storage_offset() + offset).add_(piece)
