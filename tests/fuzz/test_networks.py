"""fisher_diagonal on random networks agrees with a float64 loop over single samples."""

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

from fastforget.fisher.compute import fisher_diagonal

Batch = tuple[Tensor, Tensor]  # inputs and targets

OUTPUTS = "outputs"


def gradients(case: Network, dtype: torch.dtype, batches: Sequence[Batch]) -> dict[str, Tensor]:
    """Return gradients [batches, ...] of the summed loss of each batch, for the parameters and the outputs."""
    model = case.model().to(dtype)
    for module in model.modules():
        if isinstance(module, nn.RMSNorm) and module.eps is None:  # the default depends on the type
            module.eps = torch.finfo(sum_dtype(case.type())).eps
    found = []
    for inputs, targets in batches:
        x = inputs.to(dtype).requires_grad_() if case.tokens is None else inputs
        outputs = model(x)
        # PyTorch 2.13 crashes in the backward of group norm unless the gradient of a channels-last input is asked for.
        wanted = [*model.parameters(), outputs, *([x] if x.requires_grad else [])]
        found.append(torch.autograd.grad(case.losses(outputs, targets.to(dtype)).sum(), wanted))
    names = [*(name for name, _ in model.named_parameters()), OUTPUTS]
    return {name: torch.stack(grads).double() for name, grads in zip(names, zip(*found, strict=False), strict=False)}


def norms(value: Tensor) -> Tensor:
    """Return the norm of each group, [G]."""
    return value.reshape(len(value), -1).norm(dim=1)


class Judge:
    """Compares with the exact values, in norm and for each group of weights.

    The allowed error is a sum:

    * 1e-5 of the norm (1e-12 in float64), as in all tests. For gradients it is the norm of the per-sample gradients. If
      eps times the number of outputs is more, that counts: so many equal terms, added one by one, round alike;
    * four roundings of a sum over all outputs in which nothing cancels. This much can be left of sums that cancel;
    * eight times the error of PyTorch's own loop over single samples in the same type. This counts only if the first
      two are exceeded and the network rounds values: norms of nearly equal values multiply earlier rounding. Half types
      also get 10 eps: ten rounded activations and gradients, eps / 2 each, twice for the square.
    """

    def __init__(self, case: Network) -> None:
        inputs, targets = case.data()
        # dense inputs, because PyTorch is not always right with unusual strides, see `pytorch_is_wrong`
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
        """Return weighted sums over samples, [G, *shape]."""
        return torch.einsum("gn,n...->g...", self.shares, grads**power)

    def check(self, name: str, power: int, found: Tensor, *, rounded: bool) -> None:
        """Check a Fisher (power 2) or a gradient (power 1)."""
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
        """Return whether a plain backward over the batch is off by a tenth: PyTorch 2.13 is, for some batch norms."""
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
    # with one sample, any dimension of size one may be that of the samples; the fallback rounds gradients
    assert found.fallback == {} or case.samples == 1
    assert list(found) == names
    judge = Judge(case)
    for name in names:
        rounded = case.rounds() or name in found.fallback
        judge.check(name, 2, found[name], rounded=rounded)
        if found.gradient is not None:
            judge.check(name, 1, found.gradient[name], rounded=rounded)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # the loop warns, not this library
@settings(SETTINGS, max_examples=CASES // 2)
@given(networks())
def test_networks(case: Network) -> None:
    check(case)
