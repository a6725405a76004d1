"""What fisher_diagonal promises beside its values: order, threads, and a model that stays as it was."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from asserts import assert_close, assert_same_bits, prepared, threads
from fisher.batches import everything, rows
from fisher.disturbable_models import assert_same, noisy, snapshot
from models import LABELS, MODELS, N, loss
from torch import Tensor
from torch.utils import _pytree as pytree

from fastforget.fisher import FisherDiagonal, fisher_diagonal

SOME = ["mlp", "resnet", "vit", "bert", "transformer, sequence first", "video", "recurrent"]


def fisher(name: str, **settings: Any) -> FisherDiagonal:
    build, inputs = MODELS[name]
    return fisher_diagonal(prepared(build), inputs, LABELS, loss=loss, with_gradient=True, **settings)


@pytest.mark.parametrize("name", SOME)
def test_same_bits_again_and_for_two_threads(name: str) -> None:
    with threads(1):
        first, again = everything(fisher(name)), everything(fisher(name))
    with threads(2):
        two = everything(fisher(name))
    for key, value in first.items():
        assert_same_bits(again[key], value)
        assert_same_bits(two[key], value)


@pytest.mark.parametrize("name", SOME)
def test_order_of_the_samples_does_not_matter(name: str) -> None:
    build, inputs = MODELS[name]
    order = torch.tensor([3, 0, 4, 1, 2])
    found = fisher_diagonal(prepared(build), rows(inputs, order), LABELS[order], loss=loss)
    expected = fisher(name)
    for key, value in expected.items():
        assert (found[key] - value).norm() <= 1e-5 * max(float(value.norm()), 1e-9)
    assert_close(found.losses, expected.losses[order])


@pytest.mark.parametrize("name", SOME)
def test_parts_of_the_batch_add_up(name: str) -> None:
    build, inputs = MODELS[name]
    expected = fisher(name, reduction="sum")
    parts = [
        fisher_diagonal(prepared(build), rows(inputs, part), LABELS[part], loss=loss, reduction="sum")
        for part in (slice(0, 1), slice(1, 3), slice(3, 5))
    ]
    for key, value in expected.items():
        total = sum(part[key] for part in parts)
        assert (total - value).norm() <= 1e-5 * max(float(value.norm()), 1e-9)


def test_mean_is_sum_over_weights() -> None:
    weights = torch.tensor([[1.0, 0, 2, 0.5, 0], [0, 3, 0, 0, 1]])
    mean, total = fisher("vit", weights=weights), fisher("vit", weights=weights, reduction="sum")
    for name in mean:
        for g in range(2):
            assert_close(mean[name][g] * weights[g].sum(), total[name][g])
            assert_close(mean.gradient[name][g] * weights[g].sum(), total.gradient[name][g])


def test_groups_are_what_each_gives_alone() -> None:
    weights = torch.tensor([[1.0, 0, 2, 0.5, 0], [0, 3, 0, 0, 1]])
    both = fisher("resnet", weights=weights)
    for g in range(2):
        alone = fisher("resnet", weights=weights[g])
        for name in alone:
            assert_close(both[name][g], alone[name])


def test_losses_are_the_losses() -> None:
    build, inputs = MODELS["mlp"]
    found = fisher("mlp")
    assert_close(found.losses, loss(prepared(build)(inputs), LABELS))
    assert not found.losses.requires_grad
    assert not any(value.requires_grad for value in found.values())


def test_gradient_is_optional() -> None:
    build, inputs = MODELS["mlp"]
    assert fisher_diagonal(prepared(build), inputs, LABELS).gradient is None


def test_gradient_is_the_mean_gradient_of_the_batch() -> None:
    build, inputs = MODELS["resnet"]
    model, found = prepared(build), fisher("resnet")
    loss(model(inputs), LABELS).mean().backward()
    for name, parameter in model.named_parameters():
        scale = found[name].sqrt().norm()
        assert (found.gradient[name] - parameter.grad).norm() <= 1e-5 * scale, name


def failing_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    raise KeyError("on demand")


def nan_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs.sum(1) * float("nan")


@pytest.mark.parametrize(
    "call",
    [
        lambda model, x: fisher_diagonal(model, x, LABELS, with_gradient=True),
        lambda model, x: fisher_diagonal(model, x, LABELS, weights=torch.ones(2, N)),
        lambda model, x: fisher_diagonal(model, x, LABELS, parameters=["body.0.bias", "body.4.bias"]),
    ],
)
def test_model_is_as_before(call: Callable[..., Any]) -> None:
    model, x = noisy(), torch.randn(N, 3)
    before, x_before = snapshot(model), x.clone()
    call(model, x)
    assert_same(snapshot(model), before)
    assert torch.equal(x, x_before)
    assert x.grad is None


@pytest.mark.parametrize("fault", ["forward", "loss", "nan", "train mode", "shape"])
def test_model_is_as_before_after_an_exception(fault: str) -> None:
    model, x = noisy(), torch.randn(N, 3)
    if fault == "train mode":
        model.body[1].train()
    model.fail = fault == "forward"
    before = snapshot(model)
    function = {"loss": failing_loss, "nan": nan_loss, "shape": lambda o, _: o}.get(fault, loss)
    with pytest.raises((KeyError, ValueError)):
        fisher_diagonal(model, x, LABELS, loss=function)
    assert_same(snapshot(model), before)


def test_mixed_requires_grad_flags_stay() -> None:
    model = prepared(MODELS["mlp"][0])
    model[0].requires_grad_(False)
    before = snapshot(model)
    fisher_diagonal(model, MODELS["mlp"][1], LABELS, parameters=["0.weight", "2.weight"])
    assert_same(snapshot(model), before)


@pytest.mark.parametrize("name", ["mlp", "resnet", "vit", "bert", "transformer"])
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_callers_without_gradients(name: str, context: Callable[[], Any]) -> None:
    expected = everything(fisher(name))
    with context():
        found = everything(fisher(name)) if context is torch.no_grad else None
    if found is None:  # the model is made outside, the call and its inputs inside
        build, inputs = MODELS[name]
        model = prepared(build)
        with context():
            inside = pytree.tree_map(lambda v: v.clone() if isinstance(v, Tensor) else v, inputs)
            found = everything(fisher_diagonal(model, inside, LABELS.clone(), loss=loss, with_gradient=True))
    for key, value in expected.items():
        assert_same_bits(found[key], value)
        assert not found[key].is_inference() or context is torch.inference_mode


def test_inference_mode_with_fallback_and_weights() -> None:
    model, x = noisy(), torch.randn(N, 3)
    expected = fisher_diagonal(model, x, LABELS, weights=torch.arange(N))
    with torch.inference_mode():
        found = fisher_diagonal(model, x.clone(), LABELS.clone(), weights=torch.arange(N))
    assert set(found.fallback) == {"body.2.points"}
    for name, value in expected.items():
        assert_same_bits(found[name], value)


def test_inputs_that_require_gradients() -> None:
    build, inputs = MODELS["mlp"]
    x = inputs.clone().requires_grad_()
    expected = fisher("mlp")
    found = fisher_diagonal(prepared(build), x, LABELS, loss=loss)
    assert x.grad is None
    for name, value in found.items():
        assert_same_bits(value, expected[name])
