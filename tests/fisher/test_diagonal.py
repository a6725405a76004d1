"""Sums of Fisher diagonals: over batches in place, by merging, minus a part; refused where they have no meaning."""

import itertools
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from asserts import assert_close, prepared
from fisher.batches import everything
from fisher.partial_sums import GROUPS, KINDS, PARTS, assert_same, assert_total, part, parts, snapshot
from models import LABELS, MODELS, N, loss
from torch import Tensor, nn

from fastforget import FisherDiagonal, fingerprint, fisher_diagonal
from fastforget.fisher.diagonal import Definition


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["mlp", "resnet", "recurrent"])
def test_batches_accumulate_in_place_to_what_one_batch_gives(name: str, kind: str) -> None:
    total: FisherDiagonal | None = None
    where: list[int] = []
    for samples in PARTS:
        total = part(name, samples, kind, into=total)
        where = where or [value.data_ptr() for value in total.values()]
    assert total is not None
    assert [value.data_ptr() for value in total.values()] == where
    whole = part(name, slice(0, N), kind)
    assert_total(total, whole)
    assert_close(total.losses, whole.losses)
    assert total.samples == N
    assert total.model == fingerprint(prepared(MODELS[name][0]))


@pytest.mark.parametrize("kind", KINDS)
def test_merging_in_any_order(kind: str) -> None:
    given = parts("resnet", kind)
    before = [snapshot(one) for one in given]
    whole = part("resnet", slice(0, N), kind)
    for order in itertools.permutations(given):
        merged = FisherDiagonal.merge(iter(order))
        assert_total(merged, whole)
        assert_total(order[0] + (order[1] + order[2]), whole)
        assert_close(merged.losses, torch.cat([one.losses for one in order]))
    for one, expected in zip(given, before, strict=True):
        assert_same(one, expected)
    assert_total(FisherDiagonal.merge([whole]), whole)


def test_merging_holds_one_part_at_a_time() -> None:
    import weakref

    alive: list[weakref.ref[Tensor]] = []

    def stream() -> Any:
        for samples in PARTS * 2:
            assert sum(reference() is not None for reference in alive) <= 1  # the one before may still be referred to
            one = part("mlp", samples)
            alive.append(weakref.ref(one["0.weight"]))
            yield one
            del one

    assert FisherDiagonal.merge(stream()).samples == 2 * N


def test_batch_gradients_accumulate_by_batch() -> None:
    build, inputs = MODELS["mlp"]
    settings: dict[str, Any] = {"square": "batch", "reduction": "sum"}
    whole = fisher_diagonal(prepared(build), inputs, LABELS, batch_size=2, **settings)
    total: FisherDiagonal | None = None
    for samples in (slice(0, 2), slice(2, 4), slice(4, 5)):
        total = fisher_diagonal(prepared(build), inputs[samples], LABELS[samples], into=total, **settings)
    assert total is not None
    assert_total(total, whole)
    assert (total.weight.item(), total.samples) == (3, 5)


@pytest.mark.parametrize("kind", KINDS)
def test_mean_of_the_sum_is_the_mean(kind: str) -> None:
    """To rounding: a mean is computed with divided weights, and its sums are not divided once more."""
    total = part("resnet", slice(0, N), kind)
    before, mean = snapshot(total), part("resnet", slice(0, N), kind, reduction="mean")
    found = total.mean()
    assert_same(total, before)
    for name, value in mean.items():
        assert (found[name] - value).norm() <= 1e-6 * value.norm(), name
    for name, value in (mean.gradient or {}).items():
        # On the scale of the per-sample gradients: their mean may cancel.
        assert (found.gradient[name] - value).norm() <= 1e-6 * mean[name].sqrt().norm(), name  # type: ignore[index]
    assert (found.reduction, mean.reduction, mean.model) == ("mean", "mean", None)
    assert found.model == total.model
    assert found.mean() is found


@pytest.mark.parametrize("kind", KINDS)
def test_minus_a_part(kind: str) -> None:
    whole, (first, *others) = part("resnet", slice(0, N), kind), parts("resnet", kind)
    before = snapshot(whole)
    found, expected = whole - first, FisherDiagonal.merge(others)
    assert_same(whole, before)
    for name, value in expected.items():
        assert (found[name] - value).norm() <= 1e-6 * whole[name].norm(), name
        assert bool((found[name] >= 0).all())
    assert (found.samples, len(found.losses)) == (4, 0)
    assert_close(found.weight, expected.weight)
    assert len((found + first).losses) == 0


def test_a_difference_is_right_to_1e_6_of_the_minuend() -> None:
    """Where nothing is left, rounding is: never negative, and no more than that."""
    build, inputs = MODELS["resnet"]
    for dtype, bound in ((torch.float32, 1e-6), (torch.float64, 1e-13)):
        model, x = prepared(build).to(dtype), inputs.to(dtype)
        whole = fisher_diagonal(model, x, LABELS, reduction="sum")
        nothing = whole - FisherDiagonal.merge(
            fisher_diagonal(model, x[s], LABELS[s], reduction="sum") for s in reversed(PARTS)
        )
        for name, value in nothing.items():
            assert bool((value >= 0).all())
            assert value.max() <= bound * whole[name].max(), name
        assert (nothing.samples, nothing.weight.item()) == (0, 0)
        with pytest.raises(ValueError, match=re.escape("`weight` must be positive for a mean, got 0.0")):
            nothing.mean()


def test_sums_of_many_batches_stay_exact() -> None:
    """Batches are added as wholes: a thousand equal ones are a thousand times one, to float32 rounding."""
    one = part("mlp", slice(0, N))
    total = FisherDiagonal.merge(itertools.repeat(one, 1000))
    for name, value in one.items():
        assert_close(total[name], 1000 * value.double(), 1e-5, name)
    assert total.weight.item() == 1000 * N


def other_model() -> nn.Module:
    model = prepared(MODELS["mlp"][0])
    with torch.no_grad():
        model[0].bias[0] += 1e-3  # type: ignore[index, operator]
    return model


def call(model: nn.Module | None = None, **settings: Any) -> FisherDiagonal:
    build, inputs = MODELS["mlp"]
    targets = None if settings.get("labels") else LABELS
    return fisher_diagonal(model or prepared(build), inputs, targets, **{"reduction": "sum", **settings})


AGREE = "Fisher diagonals must agree in their"
DIFFERENT: dict[str, tuple[Callable[[], FisherDiagonal], str]] = {
    "model": (lambda: call(other_model()), f"{AGREE} fingerprint of the model to be added, got "),
    "labels": (lambda: call(labels="expectation"), f"{AGREE} definition to be added, got Definition(labels='given'"),
    "square": (lambda: call(square="batch"), f"{AGREE} definition to be added"),
    "loss": (lambda: call(loss=loss), f"{AGREE} definition to be added"),
    "groups": (lambda: call(weights=GROUPS), f"{AGREE} groups to be added, got () and (2,)"),
    "names": (lambda: call(parameters=["0.weight"]), f"{AGREE} names of parameters to be added"),
    "gradient": (lambda: call(with_gradient=True), f"{AGREE} with_gradient to be added, got False and True"),
    "mean": (lambda: call(reduction="mean"), 'must be a sum, got a mean: compute it with reduction="sum"'),
    "mean of a sum": (lambda: call().mean(), 'must be a sum, got a mean: compute it with reduction="sum"'),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_different_ones_are_refused(name: str) -> None:
    make, text = DIFFERENT[name]
    one, other = call(), make()
    before = snapshot(one), snapshot(other)
    for attempt in (
        lambda: one + other,
        lambda: other - one,
        lambda: FisherDiagonal.merge([one, other]),
        lambda: one.__iadd__(other),
    ):
        with pytest.raises(ValueError, match=re.escape(text) if "mean" in name else re.escape(AGREE)):
            attempt()
    with pytest.raises(ValueError, match=re.escape(text)):
        one += other
    assert_same(one, before[0])
    assert_same(other, before[1])


@pytest.mark.parametrize("name", [name for name in DIFFERENT if "mean" not in name])
def test_different_ones_are_refused_before_any_work(name: str) -> None:
    """The model is not even run."""
    into, (build, inputs) = DIFFERENT[name][0](), MODELS["mlp"]
    before, model = snapshot(into), prepared(build)
    model.register_forward_pre_hook(lambda *_: pytest.fail("the model was run"))
    with pytest.raises(ValueError, match=re.escape(AGREE)):
        fisher_diagonal(model, inputs, LABELS, into=into)
    assert_same(into, before)


def test_bad_arguments() -> None:
    for into, kind, text in (
        ({}, TypeError, "`into` must be a FisherDiagonal, got dict"),
        (call(reduction="mean"), ValueError, '`into` must be a sum, got a mean: compute it with reduction="sum"'),
    ):
        with pytest.raises(kind, match=re.escape(text)):
            call(into=into)
    with pytest.raises(ValueError, match=re.escape("`reduction` must be \"sum\" with `into`, got 'mean'")):
        call(into=call(), reduction="mean")
    with pytest.raises(ValueError, match=re.escape("`parts` must hold at least one Fisher diagonal, got none")):
        FisherDiagonal.merge([])
    with pytest.raises(
        ValueError, match=re.escape("`other` must be a part of what it is subtracted from, got 5 samples")
    ):
        part("mlp", PARTS[0]) - part("mlp", slice(0, N))
    for operation in (lambda: call() + 1, lambda: call() - {}, lambda: call().__iadd__(0) + 1):  # type: ignore[operator]
        with pytest.raises(TypeError):
            operation()


@pytest.mark.parametrize("fault", ["input", "loss", "labels"])
def test_a_batch_that_fails_adds_nothing(fault: str) -> None:
    build, inputs = MODELS["mlp"]
    total, targets = call(), LABELS + (100 if fault == "labels" else 0)
    before = snapshot(total)
    bad = inputs * float("nan") if fault == "input" else inputs
    settings: dict[str, Any] = {"loss": lambda *_: torch.zeros(())} if fault == "loss" else {}
    with pytest.raises((ValueError, IndexError)):
        fisher_diagonal(prepared(build), bad, targets, into=total, **settings)
    assert_same(total, before)


def test_what_a_result_says_about_itself() -> None:
    found = call(weights=GROUPS, with_gradient=True)
    assert found.weight.tolist() == [3.5, 4]
    assert found.weight.dtype == torch.float64
    assert found.definition == Definition("given", "sample", "cross_entropy", 1.0)
    assert call(loss=loss).definition.loss == "models.loss"
    assert len(everything(found)) == 2 * len(found) + 1
