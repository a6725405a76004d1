"""Every definition of the Fisher diagonal equals a loop in float64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from asserts import assert_close, assert_same_bits, batch_one_loop, prepared
from fisher.definition_cases import FALLBACKS, MODELS
from models import LABELS, N
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fastforget.classifier.inputs import split_samples
from fastforget.classifier.running import forward, logits_of
from fastforget.fisher.compute import FisherDiagonal, cross_entropy, fisher_diagonal
from fastforget.fisher.diagonal import Definition

GROUPS = torch.tensor([[1.0, 0, 2, 0.5, 0], [0, 3, 0, 0, 1]])


def wide(values: Any) -> Any:
    return pytree.tree_map(lambda v: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v, values)


def doubled(build: Callable[[], nn.Module]) -> nn.Module:
    exact = build().eval()
    exact.load_state_dict(prepared(build).state_dict())
    return exact.double()


def expectation_loop(name: str, weights: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """1/N sum_n sum_c p(c|x_n) (d log p(c|x_n) / dw)^2, and the same without the square, one at a time."""
    build, inputs = MODELS[name]
    model, samples = doubled(build), wide(inputs)
    with torch.no_grad():
        likelihood = logits_of(forward(model, samples)).softmax(1)
    sums: list[dict[str, Tensor]] = [{}, {}]
    for c in range(likelihood.shape[1]):
        labels = torch.full((N,), c)
        shares = weights.double() * likelihood[:, c]
        found = batch_one_loop(model, samples, labels, cross_entropy, shares)
        scale = shares.sum(1) / weights.double().sum(1)  # the loop divides by the weights it was given
        for total, part in zip(sums, found, strict=True):
            for key, value in part.items():
                scaled = value * scale.view(-1, *[1] * (value.dim() - 1))
                total[key] = total[key] + scaled if key in total else scaled
    return sums[0], sums[1]


def assert_is(found: FisherDiagonal, expected: dict[str, Tensor], gradient: dict[str, Tensor]) -> None:
    assert found.gradient is not None
    largest = max(float(value.norm()) for value in expected.values())
    for key, value in expected.items():
        # where exact arithmetic has no gradient (the bias of keys), rounding is all there is
        assert (found[key] - value).norm() <= 1e-5 * value.norm() + 1e-12 * largest, key
        assert (found.gradient[key] - gradient[key]).norm() <= 1e-5 * value.sqrt().norm() + 1e-6 * largest**0.5, key


@pytest.mark.parametrize("name", MODELS)
def test_expectation_over_the_models_own_labels(name: str) -> None:
    """Also for parameters that are used twice, and for those that no kernel covers."""
    build, inputs = MODELS[name]
    found = fisher_diagonal(prepared(build), inputs, weights=GROUPS, labels="expectation", with_gradient=True)
    assert_is(found, *expectation_loop(name, GROUPS))
    assert set(found.fallback) == FALLBACKS.get(name, set())
    assert found.definition == Definition("expectation")


def test_expected_losses_are_the_entropy() -> None:
    build, inputs = MODELS["mlp"]
    found = fisher_diagonal(prepared(build), inputs, labels="expectation")
    likelihood = doubled(build)(inputs.double()).softmax(1)
    assert_close(found.losses, -(likelihood * likelihood.log()).sum(1))


def test_expectation_of_one_sample_and_of_frozen_outputs() -> None:
    build, inputs = MODELS["resnet"]
    both = fisher_diagonal(prepared(build), inputs[:2], labels="expectation", reduction="sum")
    ones = [fisher_diagonal(prepared(build), inputs[n : n + 1], labels="expectation") for n in range(2)]
    for key, value in both.items():
        assert_close(ones[0][key] + ones[1][key], value, name=key)

    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Parameter(torch.ones(2))

        def forward(self, x: Tensor) -> Tensor:
            return x

    for labels, targets in (("given", LABELS), ("expectation", None)):
        for size in (1, N):
            rows = targets if targets is None else targets[:size]
            found = fisher_diagonal(Constant().eval(), torch.randn(size, 4), rows, labels=labels)
            assert found["unused"].tolist() == [0, 0]


class Recorder:
    """The cross-entropy, noting the labels it is asked about."""

    def __init__(self) -> None:
        self.labels: list[Tensor] = []

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if outputs.requires_grad and torch.is_grad_enabled():
            self.labels.append(targets)
        return F.cross_entropy(outputs, targets, reduction="none")


@pytest.mark.parametrize("draws", [1, 3])
@pytest.mark.parametrize("name", ["mlp", "recurrent", "one fallback", "disordered"])
def test_sampled_is_the_mean_over_the_drawn_labels(name: str, draws: int) -> None:
    build, inputs = MODELS[name]
    loss, generator = Recorder(), torch.Generator().manual_seed(3)
    settings: dict[str, Any] = {"labels": "sampled", "draws": draws, "weights": GROUPS, "with_gradient": True}
    found = fisher_diagonal(prepared(build), inputs, loss=loss, generator=generator, **settings)
    drawn = loss.labels[:draws]
    parts = [batch_one_loop(doubled(build), wide(inputs), d, cross_entropy, GROUPS.double()) for d in drawn]
    expected, gradient = ({key: sum(part[i][key] for part in parts) / draws for key in found} for i in (0, 1))
    assert_is(found, expected, gradient)  # type: ignore[arg-type]
    again = fisher_diagonal(prepared(build), inputs, generator=generator.manual_seed(3), **settings)
    other = fisher_diagonal(prepared(build), inputs, generator=generator, **settings)
    for key, value in again.items():
        assert_close(value, found[key], name=key)
    assert any(not torch.equal(other[key], again[key]) for key in again)


def test_many_draws_come_near_the_expectation() -> None:
    build, inputs = MODELS["mlp"]
    generator = torch.Generator().manual_seed(0)
    found = fisher_diagonal(prepared(build), inputs, labels="sampled", generator=generator, draws=1000)
    for key, value in fisher_diagonal(prepared(build), inputs, labels="expectation").items():
        assert_close(found[key], value, 0.05, key)


def batch_loop(name: str, size: int, order: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Mean over batches of the squared gradient of the mean loss, and of that gradient."""
    build, inputs = MODELS[name]
    model = doubled(build)
    rows = pytree.tree_map(lambda v: v[order] if isinstance(v, Tensor) else v, wide(inputs))
    batches = list(split_samples(rows, LABELS[order], N, size))
    sums: list[dict[str, Tensor]] = [{}, {}]
    for x, t in batches:
        parameters = dict(model.named_parameters())
        loss = cross_entropy(forward(model, x), t).mean()
        grads = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        for key, grad in zip(parameters, grads, strict=True):
            value = torch.zeros_like(parameters[key]) if grad is None else grad
            for total, part in zip(sums, (value.square(), value), strict=True):
                total[key] = total.get(key, torch.zeros_like(part)) + part / len(batches)
    return sums[0], sums[1]


@pytest.mark.parametrize("size", [1, 2, 9, None])
@pytest.mark.parametrize("name", ["mlp", "resnet", "recurrent", "disordered"])
def test_square_of_the_gradient_of_each_batch(name: str, size: int | None) -> None:
    build, inputs = MODELS[name]
    found = fisher_diagonal(prepared(build), inputs, LABELS, square="batch", batch_size=size, with_gradient=True)
    assert_is(found, *batch_loop(name, size or N, torch.arange(N)))
    assert (found.samples, found.weight.item()) == (N, -(-N // (size or N)))
    assert found.losses.shape == (found.weight.item(),)
    assert found.fallback == {}
    assert found.definition == Definition("given", "batch")


def test_the_square_of_batches_depends_on_size_and_order_that_of_samples_does_not() -> None:
    build, inputs = MODELS["mlp"]
    order = torch.tensor([3, 0, 4, 1, 2])
    model = prepared(build)

    def key(x: Tensor, y: Tensor, **settings: Any) -> Tensor:
        return fisher_diagonal(model, x, y, **settings)["0.weight"]

    assert_close(key(inputs[order], LABELS[order]), key(inputs, LABELS))
    batched = key(inputs, LABELS, square="batch", batch_size=2)
    for other in (key(inputs[order], LABELS[order], square="batch", batch_size=2), key(inputs, LABELS)):
        assert (other - batched).norm() > 0.1 * batched.norm()
    assert_close(key(inputs, LABELS, square="batch", batch_size=1), key(inputs, LABELS))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    "settings", [{"labels": "expectation"}, {"square": "batch", "targets": LABELS}], ids=["expectation", "batch"]
)
def test_other_types(dtype: torch.dtype, settings: dict[str, Any]) -> None:
    build, inputs = MODELS["mlp"]
    found = fisher_diagonal(prepared(build).to(dtype), inputs.to(dtype), **settings)
    expected = fisher_diagonal(prepared(build), inputs, **settings)
    for key, value in found.items():
        assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert_close(value, expected[key], 1e-5 if dtype == torch.float64 else 0.1, key)


def test_a_single_sample_of_a_narrow_type_is_not_rounded_to_it() -> None:
    build, inputs = MODELS["mlp"]
    model = prepared(build).bfloat16()
    one = fisher_diagonal(model, inputs[:1].bfloat16(), LABELS[:1])
    two = fisher_diagonal(model, inputs[[0, 0]].bfloat16(), LABELS[[0, 0]])
    for key, value in one.items():
        assert_same_bits(value, two[key])
