"""The forward and backward passes of one computation, and what they add up."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fastforget.classifier.devices import DeferredChecks
from fastforget.classifier.inputs import split_samples, tensors_of
from fastforget.fisher.capture import Layout, Unknown, Watch
from fastforget.fisher.dtypes import autocasts, sum_dtype
from fastforget.fisher.labels import BackwardPass
from fastforget.fisher.leaf_model import LeafModel
from fastforget.fisher.receiver import GradientReceiver
from fastforget.fisher.samples import WeightedSamples
from fastforget.fisher.settings import Settings
from fastforget.fisher.sums import SumsByName

__all__ = ["PassResults", "Passes"]

_FLOAT16_TINY = torch.finfo(torch.float16).tiny
_FLOAT16_RANGE = 2.0**24


@dataclass
class PassResults:
    """What passes add up.

    Attributes:
        sums: Of the gradients and their squares.
        losses: The loss of each sample, or batch.
        fallback: Parameters that no kernel covered, with the reason.
    """

    sums: SumsByName
    losses: Tensor = field(default_factory=lambda: torch.empty(0))
    fallback: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Passes:
    """Passes of a model over samples.

    Attributes:
        model: The model.
        samples: The samples.
        settings: Which Fisher is computed.
        checks: Takes the conditions on the losses.
    """

    model: LeafModel
    samples: WeightedSamples
    settings: Settings
    checks: DeferredChecks

    def run(self) -> PassResults:
        """Run all passes that the settings ask for."""
        return self._run_samples() if self.settings.square == "sample" else self._run_batches()

    def _run_samples(self) -> PassResults:
        """One forward, and a backward per pass; then, sample by sample, what the kernels could not serve."""
        leaves, samples, results = self.model.leaves, self.samples.count, self._empty_results()
        # Autograd's gradient of a single sample is that sample's gradient, unless it is rounded to a narrow type.
        single = samples == 1 and not any(map(_is_rounded, leaves.values()))
        watch = Watch({} if single else leaves, samples)
        outputs = self.model.run_watched(watch, self.samples.inputs)
        mixed = None if single else _why_mixed(watch, outputs)
        if mixed and samples > 1:  # once more, with an eye on modules as a whole
            watch = Watch(leaves, samples)
            outputs = self.model.run_watched(watch, self.samples.inputs, by_module=True)
            mixed = _why_mixed(watch, outputs)
        if watch.took_rows and samples > 1 and not mixed and not self._is_same_in_halves(outputs):
            mixed = "which rows of a sample are taken depends on other samples"
        passes = self.settings.labels.backward_passes(self.settings.loss, outputs, self.samples.targets, self.checks)
        if mixed:
            results.fallback.update(dict.fromkeys(leaves, mixed))
        losses_of_passes, scale = [], None
        for left, backward in zip(reversed(range(len(passes))), passes, strict=True):
            losses = self._losses(outputs, backward.targets, samples)
            losses_of_passes.append(backward.share_of(losses.detach()))
            weights = backward.weigh(self.samples.weights)
            scale = self._loss_scale(losses, outputs) if scale is None else scale
            losses = losses * scale
            if single and losses.requires_grad:
                self._add_single(results.sums, losses, weights, list(leaves), retain_graph=left > 0)
            elif not mixed and losses.requires_grad:
                self._add_watched(results, watch, losses, weights, retain_graph=left > 0)
        results.losses = sum(losses_of_passes[1:], 0.0 + losses_of_passes[0])  # a copy, on their device
        if results.fallback:
            self._add_one_by_one(results, passes, scale)
        results.sums.unscale(scale)
        return results

    def _is_same_in_halves(self, outputs: Any) -> bool:
        """Whether half of the samples alone have the same outputs: rows kept apart may be chosen among all samples'."""
        halves = []
        with torch.no_grad():
            for inputs, _ in split_samples(self.samples.inputs, None, self.samples.count, -(-self.samples.count // 2)):
                halves.append(tensors_of(self.model.run_sample(inputs, self.model.leaves)))
        whole = tensors_of(outputs)
        return all(len(half) == len(whole) for half in halves) and all(
            _is_close(output.detach(), torch.cat(parts))
            for output, *parts in zip(whole, *halves, strict=True)
            if output.requires_grad
        )

    def _run_batches(self) -> PassResults:
        """A forward and backward for each batch, whose mean loss counts as the loss of one sample."""
        results, means, samples, scale = self._empty_results(), [], self.samples.count, None
        size = self.settings.batch_size or samples
        for b, (inputs, targets) in enumerate(split_samples(self.samples.inputs, self.samples.targets, samples, size)):
            count = min(size, samples - b * size)
            outputs = self.model.run_watched(Watch({}, count), inputs)
            losses = self._losses(outputs, targets, count)
            means.append(losses.detach().mean())
            if losses.requires_grad:
                weights = self.samples.weights[:, b : b + 1]
                scale = self._loss_scale(losses, outputs) if scale is None else scale
                self._add_single(results.sums, losses * (scale / count), weights, list(self.model.leaves))
        results.losses = torch.stack(means)
        results.sums.unscale(scale)
        return results

    def _empty_results(self) -> PassResults:
        groups = self.samples.weights.shape[0]
        return PassResults(SumsByName(self.model.leaves, groups, with_gradient=self.settings.with_gradient))

    def _losses(self, outputs: Any, targets: Any, samples: int) -> Tensor:
        losses = self.settings.loss(outputs, targets)
        if not isinstance(losses, Tensor) or losses.shape != (samples,):
            got = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
            raise ValueError(f"`loss` must return one loss per sample, shape ({samples},), got {got}")
        values = losses.detach()
        bad = ~torch.isfinite(values)

        def complain() -> None:
            raise ValueError(f"the loss of sample {int(bad.nonzero()[0])} is {values[bad][0].item()}")

        self.checks.add(bad.any(), operator.not_, complain)
        return losses

    def _loss_scale(self, losses: Tensor, outputs: Any) -> Tensor | float:
        """Return the power of two by which losses are multiplied before backward, so that float16 keeps gradients.

        The largest gradient of an output becomes about one. Gradients of small losses would vanish: below 6e-8 there is
        no number but zero. Other types have the exponents for them.
        """
        if not losses.requires_grad or not any(map(_is_float16, self.model.leaves.values())):
            return 1.0
        wanted = [output for output in tensors_of(outputs) if output.requires_grad]
        largest = []
        for factor in (1.0, _FLOAT16_RANGE):  # what vanishes as it is, and does not with this
            grads = torch.autograd.grad((losses * factor).sum(), wanted, retain_graph=True, allow_unused=True)
            found = [grad.abs().max().double() for grad in grads if grad is not None]
            largest.append(torch.stack(found).max() / factor if found else losses.new_zeros((), dtype=torch.float64))
        size = torch.where(largest[0] >= 2 * _FLOAT16_TINY, largest[0], largest[1])
        return torch.where(size > 0, torch.exp2(-size.log2().floor()), 1.0).nan_to_num(1.0, 1.0, 1.0)

    def _add_watched(
        self, results: PassResults, watch: Watch, losses: Tensor, weights: Tensor, *, retain_graph: bool
    ) -> None:
        """Backward through the taps; parameters that the kernels cannot serve are noted as fallback."""
        leaves = self.model.leaves
        receiver = GradientReceiver(results.sums, weights, watch.use_counts, watch.computed)
        with watch.listening(receiver.receive, retain=retain_graph):
            grads: tuple[Tensor | None, ...] = torch.autograd.grad(
                losses.sum(), list(leaves.values()), allow_unused=True, retain_graph=retain_graph
            )
        sources = frozenset[str]().union(*(one.sources for one in watch.computed.values()))
        self.model.check_unused(
            name
            for name, grad in zip(leaves, grads, strict=True)
            if grad is None and not watch.use_counts[name] and name not in sources
        )
        for (name, leaf), grad in zip(leaves.items(), grads, strict=True):
            if grad is not None:
                results.fallback[name] = f"a use of shape {tuple(leaf.shape)} that no kernel covers"
        hidden = "a use inside a module that hides where the samples go"
        results.fallback.update({name: hidden for name in leaves if name in watch.distrusted})
        for computed in watch.computed.values():
            if computed.value._version != computed.version:  # noqa: SLF001 - nothing public says it
                results.fallback.update(dict.fromkeys(computed.sources, "it was computed with, and written to later"))
        receiver.add_repeated_uses(leaves, without=results.fallback)

    def _add_single(
        self, sums: SumsByName, losses: Tensor, weights: Tensor, names: list[str], *, retain_graph: bool = False
    ) -> None:
        """Backward of a single sample, or of a batch that counts as one, of weights [G, 1]."""
        leaves = [self.model.leaves[name] for name in names]
        grads = torch.autograd.grad(losses.sum(), leaves, allow_unused=True, retain_graph=retain_graph)
        self.model.check_unused(name for name, grad in zip(names, grads, strict=True) if grad is None)
        grads = tuple(grad.to_dense() if grad is not None and grad.is_sparse else grad for grad in grads)
        # The first gradients may become the result, where nobody else keeps their memory.
        first = sums.gradient is not None and not retain_graph and sums.gradient.keys().isdisjoint(names)
        owners = self._owners_of_memory(grads) if first else Counter[int]()
        for name, grad in zip(names, grads, strict=True):
            if grad is not None:
                sums.add_sample(name, grad, weights, owned=first and owners[_memory(grad)] == 1)

    def _owners_of_memory(self, grads: Sequence[Tensor | None]) -> Counter[int]:
        """Count the parameters, inputs and gradients on each piece of memory."""
        # Autograd may hand out one gradient for two parameters, or an operand as a gradient.
        parameters = (*self.model.leaves.values(), *self.model.others.values())
        given = tensors_of((self.samples.inputs, self.samples.targets))
        return Counter(_memory(tensor) for tensor in (*parameters, *given, *grads) if tensor is not None)

    def _add_one_by_one(
        self, results: PassResults, passes: Sequence[BackwardPass], scale: Tensor | float | None
    ) -> None:
        """The exact path for ``fallback``: a forward, and a backward per pass, for each sample alone."""
        names, samples = list(results.fallback), self.samples
        results.sums.discard(names)
        leaves = {n: leaf if n in results.fallback else leaf.detach() for n, leaf in self.model.leaves.items()}
        targets = tuple(backward.targets for backward in passes)
        weights = [backward.weigh(samples.weights) for backward in passes]
        for n, (inputs, rows) in enumerate(split_samples(samples.inputs, targets, samples.count)):
            outputs = self.model.run_sample(inputs, leaves)
            for left, row, of_pass in zip(reversed(range(len(rows))), rows, weights, strict=True):
                losses = self._losses(outputs, row, 1) * (1.0 if scale is None else scale)
                self._add_single(results.sums, losses, of_pass[:, n : n + 1], names, retain_graph=left > 0)


def _is_float16(leaf: Tensor) -> bool:
    return leaf.dtype == torch.float16 or (
        autocasts(leaf) and torch.get_autocast_dtype(leaf.device.type) == torch.float16
    )


def _is_rounded(leaf: Tensor) -> bool:
    """Whether autograd may round a parameter's gradient to a narrower type than that of the sums."""
    return leaf.dtype != sum_dtype(leaf.dtype) or autocasts(leaf)


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _is_close(expected: Tensor, found: Tensor) -> bool:
    """Whether outputs differ by rounding alone, generously: where other rows are taken, they differ by more."""
    if expected.shape != found.shape:
        return False
    tolerance = torch.finfo(expected.dtype).eps ** 0.5
    size = float(expected.abs().nan_to_num(0.0, 0.0, 0.0).max()) if expected.numel() else 0.0
    return torch.allclose(found, expected, rtol=tolerance, atol=tolerance * size, equal_nan=True)


def _why_mixed(watch: Watch, outputs: Any) -> str | None:
    """Return why the outputs cannot be told apart by sample, if so."""
    for output in tensors_of(outputs):
        state = watch.layout_state(output)
        # A single sample may seem to lie along any dimension of size one.
        any_dim = watch.samples == 1 and isinstance(state, Layout)
        if state != Layout(0) and not any_dim and output.requires_grad:
            return state.reason if isinstance(state, Unknown) else "the outputs do not keep the samples in order"
    return None
