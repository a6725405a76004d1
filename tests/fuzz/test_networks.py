"""fisher_diagonal on networks drawn at random, against the float64 batch-1 loop."""

from collections.abc import Sequence

import pytest
import torch
from asserts import TOLERANCE
from cases import sum_dtype
from fuzz.draws import CASES, SETTINGS
from fuzz.layers import networks
from fuzz.networks import Network
from hypothesis import event, given, reject, settings
from torch import Tensor, nn

from fastforget.fisher import fisher_diagonal

Batch = tuple[Tensor, Tensor]  # inputs and targets

OUTPUTS = "outputs"


def gradients(case: Network, dtype: torch.dtype, batches: Sequence[Batch]) -> dict[str, Tensor]:
    """Gradients [batches, ...] in ``dtype`` of the summed loss of each batch, of the parameters and the outputs."""
    model = case.model().to(dtype)
    for module in model.modules():
        if isinstance(module, nn.RMSNorm) and module.eps is None:  # its default depends on the type
            module.eps = torch.finfo(sum_dtype(case.type())).eps
    found = []
    for inputs, targets in batches:
        x = inputs.to(dtype).requires_grad_() if case.tokens is None else inputs
        outputs = model(x)
        # Group norm's backward crashes PyTorch 2.13 if nobody asks for the gradient of a channels-last input.
        wanted = [*model.parameters(), outputs, *([x] if x.requires_grad else [])]
        found.append(torch.autograd.grad(case.losses(outputs, targets.to(dtype)).sum(), wanted))
    names = [*(name for name, _ in model.named_parameters()), OUTPUTS]
    return {name: torch.stack(grads).double() for name, grads in zip(names, zip(*found, strict=False), strict=False)}


def norms(value: Tensor) -> Tensor:
    """The norm of each group, [G]."""
    return value.reshape(len(value), -1).norm(dim=1)


class Judge:
    """Compares with the exact values, in norm and for each group of weights.

    What a value may be off by:

    * as everywhere in these tests 1e-5 of the norm (1e-12 in float64), for gradients of that of the per-sample ones;
      eps times the number of outputs where that is more, since as many equal terms, added one by one, round alike;
    * four roundings of a sum over all outputs in which nothing cancels: what may be left of sums that do cancel;
    * only where the first two are exceeded, and never in a network that rounds nothing on the way: eight times what
      PyTorch's own batch-1 loop errs in the same type. Norms of nearly equal values multiply earlier rounding. In
      half types also 10 eps: ten rounded activations and gradients, eps / 2 each, twice for the square.
    """

    def __init__(self, case: Network) -> None:
        inputs, targets = case.data()
        # Dense: what PyTorch does with unusual strides is not always right, see `pytorch_is_wrong`.
        dense = [x.clone(memory_format=torch.contiguous_format) for x in inputs.split(1)]
        self.case, self.alone = case, list(zip(dense, targets.split(1), strict=True))
        self.exact = gradients(case, torch.float64, self.alone)
        self.plain: dict[str, Tensor] | None = None
        self.shares = case.sample_weights().double()
        if case.reduction == "mean":
            self.shares /= self.shares.sum(1, keepdim=True)
        eps = torch.finfo(sum_dtype(case.type())).eps
        self.tolerance = max(TOLERANCE[case.type()], case.outputs * eps)
        roots = [norms(self.sums(grads, 2).sqrt()) for grads in self.exact.values()]
        outputs = norms(self.sums(self.exact[OUTPUTS].flatten(1).abs().sum(1), 2).sqrt())
        self.rounding = 4 * eps * torch.stack([*roots, outputs]).amax(0)

    def sums(self, grads: Tensor, power: int) -> Tensor:
        """Weighted sums over samples, [G, *shape]."""
        return torch.einsum("gn,n...->g...", self.shares, grads**power)

    def check(self, name: str, power: int, found: Tensor, *, rounded: bool) -> None:
        """Check a Fisher, power 2, or gradient, power 1."""
        grads = self.exact[name]
        expected, root = self.sums(grads, power), norms(self.sums(grads, 2).sqrt())
        scale = root if power == 1 else norms(expected)
        error = norms(found.reshape(expected.shape) - expected)
        allowed = self.tolerance * scale + self.rounding * (1 if power == 1 else 2 * root + self.rounding)
        if bool((error > allowed).any()) and rounded:
            event(f"{self.case.dtype}: compared with PyTorch's own rounding")
            self.plain = self.plain or gradients(self.case, self.case.type(), self.alone)
            half = 10 * torch.finfo(self.case.type()).eps if self.case.type().itemsize == 2 else 0
            allowed = allowed + 8 * norms(self.sums(self.plain[name], power) - expected) + half * scale
        if bool((error > allowed).any()) and self.pytorch_is_wrong():
            event("PyTorch's own gradient of the batch is wrong")
            reject()
        assert (error <= allowed).all(), f"{name}: error {error.tolist()}, allowed {allowed.tolist()}"

    def pytorch_is_wrong(self) -> bool:
        """Whether an ordinary backward over the batch is off by a tenth: batch norm's of some layouts is, in 2.13."""
        batch = gradients(self.case, self.case.type(), [self.case.data()])
        total = {name: grads.sum(0) for name, grads in self.exact.items() if name != OUTPUTS}
        return any((batch[name][0] - sums).norm() > 0.1 * self.exact[name].norm() for name, sums in total.items())


def check(case: Network) -> None:
    model, (inputs, targets) = case.model(), case.data()
    names = [name for name, _ in model.named_parameters()][:: 2 if case.every_second else 1]
    found = fisher_diagonal(
        model, inputs, targets, loss=case.losses, weights=case.given_weights(), reduction=case.reduction,
        parameters=names, with_gradient=case.gradient,
    )  # fmt: skip
    # One sample may seem to lie along any dimension of size one. The gradients of the fallback are rounded.
    assert found.fallback == {} or case.samples == 1
    assert list(found) == names
    judge = Judge(case)
    for name in names:
        rounded = case.rounds() or name in found.fallback
        judge.check(name, 2, found[name], rounded=rounded)
        if found.gradient is not None:
            judge.check(name, 1, found.gradient[name], rounded=rounded)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # from the loop, not from this library
@settings(SETTINGS, max_examples=CASES // 2)
@given(networks())
def test_networks(case: Network) -> None:
    check(case)
