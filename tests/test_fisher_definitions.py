"""Whose labels, and the square of what: every definition by name, against a loop in float64."""

import re
from collections.abc import Callable
from typing import Any

import models
import pytest
import torch
import torch.nn.functional as F
from asserts import assert_close, assert_same_bits, batch_one_loop, prepared
from models import LABELS, N
from test_fisher_properties import assert_same, noisy, snapshot
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fastforget.batch import forward, logits_of, split_samples
from fastforget.diagonal import Definition
from fastforget.fisher import FisherDiagonal, cross_entropy, fisher_diagonal
from fastforget.losses import ScaledCrossEntropy

GROUPS = torch.tensor([[1.0, 0, 2, 0.5, 0], [0, 3, 0, 0, 1]])


def wide(values: Any) -> Any:
    return pytree.tree_map(lambda v: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v, values)


def doubled(build: Callable[[], nn.Module]) -> nn.Module:
    exact = build().eval()
    exact.load_state_dict(prepared(build).state_dict())
    return exact.double()


def disordered() -> nn.Module:
    """The samples are lost sight of, so that every parameter takes the path of one sample after the other."""

    class Twice(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flip(0).flip(0)

    return nn.Sequential(nn.Linear(3, 6), Twice(), nn.Tanh(), nn.Linear(6, 4))


FALLBACKS = {"one fallback": {"1.weight"}, "disordered": {"0.weight", "0.bias", "3.weight", "3.bias"}}
X = torch.randn(N, 3, generator=torch.Generator().manual_seed(5))
MODELS = {
    **{name: case for name, case in models.MODELS.items() if name != "bert"},  # which returns a dict
    "one fallback": (lambda: nn.Sequential(nn.Linear(3, 6), nn.PReLU(6), nn.Linear(6, 4)), X),
    "disordered": (disordered, X),
}


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


CALLS: dict[str, dict[str, Any]] = {
    "expectation": {"labels": "expectation"},
    "sampled": {"labels": "sampled", "generator": torch.Generator(), "draws": 2},
    "batch": {"targets": LABELS, "square": "batch", "batch_size": 2},
    "one sample": {"targets": LABELS[:1]},
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("fault", [None, "forward", "loss", "nan"])
def test_model_is_as_before(name: str, fault: str | None) -> None:
    model, x = noisy(), torch.randn(1 if name == "one sample" else N, 3)
    model.fail = fault == "forward"
    before = snapshot(model)

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        if fault == "loss" and outputs.requires_grad and torch.is_grad_enabled():
            raise KeyError("on demand")
        return F.cross_entropy(outputs, targets, reduction="none") * (float("nan") if fault == "nan" else 1)

    if fault is None:
        fisher_diagonal(model, x, loss=loss, with_gradient=True, **CALLS[name])
    else:
        with pytest.raises((KeyError, ValueError)):
            fisher_diagonal(model, x, loss=loss, **CALLS[name])
    assert_same(snapshot(model), before)


@pytest.mark.parametrize("name", CALLS)
def test_callers_without_gradients(name: str) -> None:
    build, inputs = MODELS["mlp"]
    model, x = prepared(build), inputs[: 1 if name == "one sample" else N]
    settings = {**CALLS[name]}
    if name == "sampled":
        settings["generator"] = torch.Generator().manual_seed(1)
    expected = fisher_diagonal(model, x, **settings)
    if name == "sampled":
        settings["generator"] = torch.Generator().manual_seed(1)
    with torch.inference_mode():
        found = fisher_diagonal(model, x.clone(), **settings)
    for key, value in expected.items():
        assert_same_bits(found[key], value)


@pytest.mark.parametrize("name", ["expectation", "batch", "one sample"])
@pytest.mark.parametrize("layer", [nn.BatchNorm1d(6), nn.Dropout(0.5)], ids=["batch norm", "dropout"])
def test_train_mode_is_refused(name: str, layer: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(3, 6), layer, nn.Linear(6, 4)).train()
    with pytest.raises(ValueError, match=r"call model\.eval\(\) first"):
        fisher_diagonal(model, torch.randn(1 if name == "one sample" else N, 3), **CALLS[name])


Y, G = {"targets": LABELS}, {"generator": torch.Generator()}
ERRORS: dict[str, tuple[type[Exception], str, dict[str, Any]]] = {
    "labels": (
        ValueError,
        '`labels` must be "given", "expectation" or "sampled", got \'true\'',
        {**Y, "labels": "true"},
    ),
    "targets": (ValueError, '`targets` must be given with labels="given", got None', {}),
    "targets with expectation": (
        ValueError,
        '`targets` must be None with labels="expectation", which takes labels from the model',
        {**Y, "labels": "expectation"},
    ),
    "targets with sampled": (ValueError, "`targets` must be None with", {**Y, **G, "labels": "sampled"}),
    "no generator": (
        TypeError,
        '`generator` must be a torch.Generator with labels="sampled", got NoneType',
        {"labels": "sampled"},
    ),
    "no need of a generator": (
        ValueError,
        '`generator` and `draws` must be left out with labels="expectation"',
        {**G, "labels": "expectation"},
    ),
    "no need of draws": (
        ValueError,
        '`generator` and `draws` must be left out with labels="given"',
        {**Y, "draws": 2},
    ),
    "draws": (ValueError, "`draws` must be at least 1, got 0", {**G, "labels": "sampled", "draws": 0}),
    "draws type": (TypeError, "`draws` must be an int, got float", {**G, "labels": "sampled", "draws": 2.0}),
    "square": (ValueError, '`square` must be "sample" or "batch", got \'mean\'', {**Y, "square": "mean"}),
    "own labels of batches": (
        ValueError,
        '`labels` must be "given" with square="batch", got \'expectation\'',
        {"labels": "expectation", "square": "batch"},
    ),
    "weights of batches": (
        ValueError,
        '`weights` must be None with square="batch"',
        {**Y, "square": "batch", "weights": torch.ones(N)},
    ),
    "batch size": (ValueError, "`batch_size` must be at least 1, got 0", {**Y, "square": "batch", "batch_size": 0}),
    "batch size type": (
        TypeError,
        "`batch_size` must be an int, got bool",
        {**Y, "square": "batch", "batch_size": True},
    ),
    "batch size of samples": (
        ValueError,
        '`batch_size` must be left out with square="sample"',
        {**Y, "batch_size": 2},
    ),
    "no likelihood": (
        ValueError,
        "for labels of the model's own, but the probabilities of the 4 classes add up to",
        {"labels": "expectation", "loss": ScaledCrossEntropy(2.0)},
    ),
    "scalar likelihood": (
        ValueError,
        "`loss` must return one loss per sample, shape (5,)",
        {"labels": "expectation", "loss": F.cross_entropy},
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_bad_call(name: str) -> None:
    build, inputs = MODELS["mlp"]
    kind, text, settings = ERRORS[name]
    with pytest.raises(kind, match=re.escape(text)):
        fisher_diagonal(prepared(build), inputs, **settings)


def test_own_labels_need_logits() -> None:
    model = nn.Linear(3, 4).eval()
    with pytest.raises(
        ValueError, match=re.escape("`model` must return logits [N, C] for labels of its own, got shape (5, 2, 4)")
    ):
        fisher_diagonal(model, torch.randn(5, 2, 3), labels="expectation")
    with pytest.raises(ValueError, match=re.escape("add up to nan")):
        fisher_diagonal(model, torch.randn(5, 3), labels="expectation", loss=lambda o, _: o[:, 0] * float("nan"))
