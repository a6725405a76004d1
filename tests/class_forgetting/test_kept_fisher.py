"""`one_shot(fisher=kept)`: the same edit from the codes to forget alone, and a refusal of anything that is outdated."""

import copy
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from asserts import assert_close
from class_forgetting.kept_fisher_cases import Fragile, keep, positions
from class_forgetting.one_shot_cases import FREE, RHO, accuracies
from fisher.partial_sums import assert_same, snapshot
from known_codes import (
    CLASSES,
    TwoInputs,
    assert_holds,
    convnet,
    copied_tensors,
    digits,
    edits_values_only,
    mlp,
    model_with_codes,
    refused,
)
from torch import nn

from fastforget import FisherDiagonal, MnemonicCodes, Receipt, UnrecognisedCodesError, fisher_diagonal, one_shot
from fastforget.classifier.losses import ScaledCrossEntropy

OUTPUT_BIASES = {"2.bias", "8.bias"}  # of the small models and the network for digits


def assert_same_edit(kept: Receipt, full: Receipt, share: float) -> None:
    """The same elements, but for a share of ties and rounding, moved by the same amount to a tenth of a nat.

    The output biases of the remaining classes make up for the step only where the remaining codes are run.
    """
    found, expected = positions(kept), positions(full)
    expected -= {(name, place) for name, place in expected - found if name in OUTPUT_BIASES}
    assert len(found ^ expected) <= 2 * share * len(expected)
    assert kept.alpha == pytest.approx(full.alpha, rel=0.03)
    assert kept.evidence["forget_log_odds_after"] == pytest.approx(full.evidence["forget_log_odds_after"], abs=0.2)
    for key in ("forget_log_odds_before", "remain_log_odds_before"):
        assert kept.evidence[key] == pytest.approx(full.evidence[key], rel=1e-4)


@pytest.mark.parametrize("cls", [0, 3, 8])
def test_digits_are_forgotten_as_without(cls: int) -> None:
    """Class 8 takes three times as many parameters as the others."""
    original, codes, data = digits()
    model, other = copy.deepcopy(original), copy.deepcopy(original)
    kept = keep(model, codes)
    before = snapshot(kept)
    with edits_values_only(model):
        receipt = one_shot(model, codes, cls, fisher=kept)
    full = one_shot(other, codes, cls, spill=FREE)
    assert_same(kept, before)
    assert_same_edit(receipt, full, 0.001)
    assert (receipt.kept_fisher, full.kept_fisher) == (True, False)
    assert "remain_log_odds_after" not in receipt.evidence
    # without the remaining codes, nothing bounds the step or makes up for it; with `update` they are run
    updated = copy.deepcopy(original)
    one_shot(updated, codes, cls, fisher=keep(updated, codes), update=True)
    found = [accuracies(edited, data, [cls]) for edited in (model, other, updated)]
    assert max(forget for forget, _ in found) <= 0.01
    assert found[2][1] >= accuracies(original, data, [cls])[1] - 0.005
    receipt.revert(model)
    assert_holds(model, copied_tensors(original))
    one_shot(model, codes, (cls + 1) % 10, fisher=kept)  # valid again after the undo


SMALL = [(build, per_class, [1], RHO) for build in (mlp, convnet, TwoInputs) for per_class in (1, 2)]
SMALL += [(mlp, 1, [2], RHO), (convnet, 1, [3], RHO)]


@pytest.mark.parametrize(("build", "per_class", "classes", "rho"), SMALL)
def test_small_models(build: Callable[[], nn.Module], per_class: int, classes: list[int], rho: float) -> None:
    """In float64 nothing is a matter of rounding."""
    model, codes = model_with_codes(build, per_class=per_class)
    model.double()
    other = copy.deepcopy(model)
    # the output biases make up for what the step did to the remaining codes only if these are run
    receipt = one_shot(model, codes, classes, rho=rho, output_row=False, fisher=keep(model, codes))
    full = one_shot(other, codes, classes, rho=rho, output_row=False, spill=FREE)
    assert positions(receipt) == positions(full)
    assert receipt.alpha == pytest.approx(full.alpha, rel=1e-6)
    for name, value in copied_tensors(other).items():
        assert_close(copied_tensors(model)[name], value, 1e-8, name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_types(dtype: torch.dtype) -> None:
    model, codes = model_with_codes(per_class=2)
    model.to(dtype)
    other = copy.deepcopy(model)
    receipt = one_shot(model, codes, 1, rho=RHO, fisher=keep(model, codes))
    assert_same_edit(receipt, one_shot(other, codes, 1, rho=RHO, spill=FREE), 0.05)


def test_only_the_codes_to_forget_are_run() -> None:
    model, codes = model_with_codes(per_class=2)
    kept, sizes = keep(model, codes), list[int]()
    model.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    one_shot(model, codes, 1, rho=RHO, fisher=kept)
    # For the output row the others are run as well, once: for the layer and for their features.
    assert sizes.count(6) == 1
    assert set(sizes) == {2, 6}
    assert len(sizes) < 15


def test_a_subset_of_the_parameters_suffices() -> None:
    model, codes = model_with_codes()
    other, names = copy.deepcopy(model), ["2.weight", "0.weight"]
    for kept in (keep(model, codes), keep(model, codes, parameters=names)):
        receipt = one_shot(model, codes, 1, rho=0.5, output_row=False, parameters=names, fisher=kept)
        receipt.revert(model)
        assert set(receipt.edits) == set(names)
    assert_same_edit(receipt, one_shot(other, codes, 1, rho=0.5, output_row=False, parameters=names), 0.02)


def test_with_a_floor_and_from_files(tmp_path: Path) -> None:
    model, codes = model_with_codes()
    keep(model, codes).save(tmp_path / "kept")
    kept = FisherDiagonal.load(tmp_path / "kept")
    receipt = one_shot(model, codes, 1, rho=RHO, fisher=kept, floor=(codes.inputs, codes.labels, 0.5))
    receipt.save(tmp_path / "receipt")
    loaded = Receipt.load(tmp_path / "receipt")
    assert loaded.kept_fisher
    loaded.revert(model)
    assert_holds(model, copied_tensors(model_with_codes()[0]))


def test_accumulated_code_by_code() -> None:
    model, codes = model_with_codes()
    total: FisherDiagonal | None = None
    for n in range(len(codes.labels)):
        rows = slice(n, n + 1)
        total = fisher_diagonal(
            model, codes.tensor.flatten(0, 1)[rows], codes.labels[rows], reduction="sum", into=total
        )
    assert total is not None
    full = one_shot(copy.deepcopy(model), codes, 2, rho=RHO)
    assert_same_edit(one_shot(model, codes, 2, rho=RHO, fisher=total), full, 0.02)


def sure(factor: float) -> tuple[nn.Module, MnemonicCodes]:
    """A model whose logits on the codes are larger."""
    model, codes = model_with_codes()
    head = model.get_submodule("2")
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.mul_(factor)
    return model, codes


@pytest.mark.parametrize("factor", [1.5, 2.5, 6.0])
def test_models_surer_of_their_codes(factor: float) -> None:
    """The scale of the loss makes no difference, as long as the squares of 1 - p are not lost."""
    model, codes = sure(factor)
    other = copy.deepcopy(model)
    full = one_shot(other, codes, 1, rho=RHO, spill=FREE)
    scale = 1.0
    if full.evidence["remain_log_odds_before"] > 24:
        with refused(model, ValueError, "must be of a loss as large as the model is sure of its codes"):
            one_shot(model, codes, 1, rho=RHO, fisher=keep(model, codes))
        with pytest.raises(ValueError, match=r"ScaledCrossEntropy\((\S+)\)") as caught:
            one_shot(model, codes, 1, rho=RHO, fisher=keep(model, codes))
        found = re.search(r"ScaledCrossEntropy\((\S+)\)", str(caught.value))
        assert found is not None
        scale = float(found[1])
        assert scale > 1e9
    receipt = one_shot(model, codes, 1, rho=RHO, fisher=keep(model, codes, loss=ScaledCrossEntropy(scale)))
    assert_same_edit(receipt, full, 0.02)
    assert (scale > 1) == (factor > 5)


# Refusals


def test_outdated_after_an_edit() -> None:
    model, codes = model_with_codes()
    kept = keep(model, codes)
    receipt = one_shot(model, codes, 1, rho=RHO, fisher=kept)
    model.register_forward_pre_hook(lambda *_: pytest.fail("the model was run"))
    text = (
        rf"^`fisher` must be of the model as it is, with fingerprint {receipt.after}, got one of {receipt.before}: "
        r"every edit makes a kept Fisher outdated; compute it with fisher_diagonal\(model, codes\.inputs, "
        r'codes\.labels, reduction="sum"\)$'
    )
    with refused(model, ValueError, text):
        one_shot(model, codes, 2, rho=RHO, fisher=kept)


X = torch.randn(4, 6, generator=torch.Generator().manual_seed(3))
KEPT: dict[str, tuple[Callable[[nn.Module, MnemonicCodes], Any], type[Exception], str]] = {
    "a dict": (lambda m, c: dict(keep(m, c)), TypeError, "`fisher` must be a FisherDiagonal, got dict"),
    "a mean": (lambda m, c: keep(m, c).mean(), ValueError, "`fisher` must be a sum, got a mean: compute it with"),
    "batches": (
        lambda m, c: keep(m, c, square="batch", batch_size=1),
        ValueError,
        "`fisher` must be of given labels, samples and the cross-entropy, got Definition(labels='given', square=",
    ),
    "own labels": (
        lambda m, c: fisher_diagonal(m, c.inputs, labels="expectation", reduction="sum"),
        ValueError,
        "`fisher` must be of given labels, samples and the cross-entropy, got Definition(labels='expectation'",
    ),
    "another loss": (
        lambda m, c: keep(m, c, loss=lambda o, t: nn.functional.cross_entropy(o, t, reduction="none")),
        ValueError,
        "`fisher` must be of given labels, samples and the cross-entropy, got Definition(",
    ),
    "groups": (
        lambda m, c: keep(m, c, weights=torch.ones(2, 8)),
        ValueError,
        "`fisher` must be of given labels, samples and the cross-entropy, got",
    ),
    "too few": (
        lambda m, c: fisher_diagonal(m, c.inputs[:7], c.labels[:7], reduction="sum"),
        ValueError,
        "`fisher` must be the sum over all 8 codes, each once, got 7 samples of weight 7 with 7 losses; compute",
    ),
    "weighted": (
        lambda m, c: keep(m, c, weights=2 * torch.ones(8)),
        ValueError,
        "`fisher` must be the sum over all 8 codes, each once, got 8 samples of weight 16 with 8 losses",
    ),
    "a difference": (
        lambda m, c: keep(m, c) + keep(m, c) - keep(m, c),
        ValueError,
        "`fisher` must be the sum over all 8 codes, each once, got 8 samples of weight 8 with 0 losses",
    ),
    "missing parameter": (
        lambda m, c: keep(m, c, parameters=["0.weight"]),
        ValueError,
        "`fisher` must hold parameter `0.bias` of shape (64,) on cpu, got none",
    ),
    "another model": (
        lambda _, c: keep(sure(1.1)[0], c),
        ValueError,
        "`fisher` must be of the model as it is, with fingerprint",
    ),
    "other codes": (
        lambda m, c: keep(m, MnemonicCodes.from_tensors(c.tensor * 1.05)),
        ValueError,
        "`fisher` must be of these codes, but those of class [1] have log-odds of",
    ),
    "codes in another order": (
        lambda m, c: fisher_diagonal(m, c.inputs.flip(0), c.labels.flip(0), reduction="sum"),  # type: ignore[union-attr]
        ValueError,
        "`fisher` must be of these codes, but those of class [1] have log-odds of",
    ),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_it_must_not_be(name: str) -> None:
    make, error, text = KEPT[name]
    model, codes = model_with_codes()
    kept = make(model, codes)
    with refused(model, error, re.escape(text)):
        one_shot(model, codes, 1, rho=RHO, fisher=kept)


def test_the_papers_rule_cannot_do_with_it() -> None:
    model, codes = model_with_codes()
    text = r'^`fisher` must be left out with rule="paper", whose step is set by the largest ratio of each tensor'
    with refused(model, ValueError, text):
        one_shot(model, codes, 1, rule="paper", fisher=keep(model, codes))


def test_codes_that_the_model_does_not_know() -> None:
    model, _ = model_with_codes()
    strangers = MnemonicCodes.generate(CLASSES, (6,), per_class=2, seed=99)
    with refused(model, UnrecognisedCodesError, "`mnemonic_codes` must be known to the model, but it recognises"):
        one_shot(model, strangers, 1, fisher=keep(model, strangers))


def test_codes_that_do_not_fit_the_model() -> None:
    model, codes = model_with_codes()
    kept = keep(model, codes)
    other = MnemonicCodes.generate(CLASSES, (7,), per_class=2)
    with refused(model, ValueError, r"^`mnemonic_codes` must be what the model's forward takes, .* shape \(7,\)"):
        one_shot(model, other, 1, fisher=kept)
    three = MnemonicCodes.from_tensors(codes.tensor[:3])
    with refused(model, ValueError, r"^`mnemonic_codes` must have one class per output of the model, got 3 classes"):
        one_shot(model, three, 1, fisher=keep(model, three))


# Failures on the way


@pytest.mark.parametrize("rule", ["natural", "paper", "kept"])
def test_a_failure_at_any_forward_leaves_the_model_alone(rule: str) -> None:
    inside, codes = model_with_codes()
    model = Fragile(inside).eval()
    settings: dict[str, Any] = {"rule": rule} if rule != "kept" else {"fisher": keep(model, codes)}
    if rule != "paper":  # which need not forget these codes, and with a floor must
        settings["floor"] = (codes.inputs, codes.labels, 0.1)
    model.calls = 0
    one_shot(model, codes, 1, rho=RHO, **settings).revert(model)
    calls = model.calls
    assert calls >= 4
    for failing in range(1, calls + 1):
        model.calls, model.failing = 0, failing
        with refused(model, OSError, "in the middle"):
            one_shot(model, codes, 1, rho=RHO, **settings)
    model.calls, model.failing = 0, math.inf
    one_shot(model, codes, 1, rho=RHO, **settings)
