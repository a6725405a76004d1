"""What `one_shot` does with the output row of a class that was never seen."""

import copy
import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from asserts import assert_close, assert_same_bits
from class_forgetting.kept_fisher_cases import keep
from class_forgetting.one_shot_cases import accuracies
from known_codes import assert_holds, convnet, copied_tensors, digits, edits_values_only, model_with_codes
from torch import Tensor, nn

from fastforget import one_shot
from fastforget.classifier.output_layer import find_output_layer

DEPTH = 12.0


def _without(cls: int) -> list[int]:
    return [other for other in range(10) if other != cls]


@pytest.fixture(scope="module")
def images() -> tuple[Tensor, Tensor]:
    """Eight training images of each digit."""
    data = digits()[2]
    rows = torch.cat([(data.y_train == cls).nonzero().squeeze(1)[:8] for cls in range(10)])
    return data.x_train[rows], data.y_train[rows]


def _said(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(digits()[2].x_test)


@pytest.mark.parametrize("cls", range(10))
def test_the_row_alone_forgets_and_moves_no_other_logit(cls: int) -> None:
    original, codes, data = digits()
    model = copy.deepcopy(original)
    with edits_values_only(model):
        receipt = one_shot(model, codes, cls, level="output")
    before, after = _said(original), _said(model)
    assert not (after.argmax(1) == cls).any()
    for other in _without(cls):
        assert_same_bits(after[:, other], before[:, other])
    assert set(receipt.edits) == {"8.weight", "8.bias"}
    width = original.get_parameter("8.weight").shape[1]
    for name, size in (("8.weight", width), ("8.bias", 1)):
        indices = receipt.edits[name].indices
        assert indices is not None
        assert set(indices.tolist()) <= set(range(cls * size, (cls + 1) * size))
    assert receipt.settings["level"] == "output"
    assert receipt.evidence["disconnected"] == 1
    norms = model.get_parameter("8.weight").detach().norm(dim=1)
    assert norms[cls] <= norms[_without(cls)].max() * (1 + 1e-6)
    forget = after[data.y_test == cls].double()
    depth = (forget[:, _without(cls)].logsumexp(1) - forget[:, cls]).mean().item()
    assert 6 < depth < 20  # of images; codes were calibrated on. Networks trained without a class: 10 to 15.
    receipt.revert(model)
    assert_holds(model, copied_tensors(original))


def test_the_evidence_is_what_the_model_says() -> None:
    original, codes, _ = digits()
    model = copy.deepcopy(original)
    evidence = one_shot(model, codes, [2, 7], output_depth=9.0).evidence
    with torch.no_grad():
        found = model(codes.inputs)[torch.isin(codes.labels, torch.tensor([2, 7]))].double()
    rest = [cls for cls in range(10) if cls not in (2, 7)]
    depth = (found[:, rest].logsumexp(1) - found[:, [2, 7]].max(1).values).mean().item()
    assert evidence["output_depth"] == pytest.approx(depth, abs=1e-5)
    assert evidence["output_depth_goal"] == 9
    assert depth > 8


def test_several_classes_and_one_request_after_another() -> None:
    original, codes, data = digits()
    together, apart, gone = copy.deepcopy(original), copy.deepcopy(original), list[int]()
    one_shot(together, codes, [1, 4, 6], level="output")
    receipts = []
    for cls in (1, 4, 6):
        receipts.append(one_shot(apart, codes, cls, forgotten=gone, level="output"))
        gone.append(cls)
    for model in (together, apart):
        assert not torch.isin(_said(model).argmax(1), torch.tensor(gone)).any()
        assert accuracies(model, data, gone)[1] >= accuracies(original, data, gone)[1]
    for receipt in reversed(receipts):
        receipt.revert(apart)
    assert_holds(apart, copied_tensors(original))


@pytest.mark.parametrize("with_codes", [False, True])
@pytest.mark.parametrize("kind", ["labelled", "unlabelled", "none of the class"])
def test_samples(kind: str, with_codes: bool, images: tuple[Tensor, Tensor]) -> None:
    """Those of others are enough; of the class neither a code nor a sample is needed."""
    original, codes, data = digits()
    model, (x, y), cls = copy.deepcopy(original), images, 3
    given: Any = {"labelled": (x, y), "unlabelled": (x, None), "none of the class": (x[y != cls], y[y != cls])}[kind]
    with edits_values_only(model):
        receipt = one_shot(model, codes if with_codes else None, cls, samples=given, level="output")
    assert receipt.claims == ("disconnected",)
    assert not (_said(model).argmax(1) == cls).any()
    assert accuracies(model, data, [cls])[1] >= accuracies(original, data, [cls])[1]
    own = _said(model)[data.y_test == cls].double()
    assert (own[:, _without(cls)].logsumexp(1) - own[:, cls]).mean() > 6
    receipt.revert(model)
    assert_holds(model, copied_tensors(original))


def test_the_level_follows_from_what_is_given(images: tuple[Tensor, Tensor]) -> None:
    original, codes, _ = digits()
    x, _ = images

    def level(*args: Any, **settings: Any) -> str:
        return str(one_shot(copy.deepcopy(original), *args, **settings).settings["level"])

    assert level(codes, 3) == "body"
    assert level(None, 3, samples=(x, None)) == "output"
    assert level(codes, 3, samples=(x, None)) == "body"


def test_the_row_fits_the_features_after_the_step_with_a_kept_sum_too() -> None:
    original, codes, _ = digits()
    rows = []
    for kept in (False, True):
        model = copy.deepcopy(original)
        settings = {"fisher": keep(model, codes)} if kept else {"spill": 1e9}
        one_shot(model, codes, 3, **settings)  # type: ignore[arg-type]
        rows.append(model.get_parameter("8.weight").detach()[3])
        layer = find_output_layer(model, codes.inputs)  # type: ignore[arg-type]
        assert layer is not None
        features = layer.features(model, codes.inputs).double()  # type: ignore[arg-type]
        own = codes.labels == 3
        means = torch.stack([features[~own].mean(0), features[own].mean(0)])
        # against the others, and against the class as far as its depth asks for it
        amounts = torch.linalg.lstsq(means.T, -rows[-1].double()[:, None]).solution[:, 0]
        assert amounts[0] > 0
        assert amounts[1] > -1e-5
        assert F.cosine_similarity(-amounts @ means, rows[-1].double(), 0) > 1 - 1e-5
    assert F.cosine_similarity(rows[0], rows[1], 0) > 0.999


def test_micro_batches_and_types() -> None:
    model, codes = model_with_codes(convnet)
    found = {}
    for batch_size, dtype in itertools.product((None, 3), (torch.float64, torch.float32)):
        edited = copy.deepcopy(model).to(dtype)
        one_shot(edited, codes, 1, level="output", batch_size=batch_size)
        found[batch_size, dtype] = edited.get_parameter("4.weight").detach().double()[1]
    assert_close(found[3, torch.float64], found[None, torch.float64], 1e-12)
    assert_close(found[3, torch.float32], found[None, torch.float64], 1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types(dtype: torch.dtype) -> None:
    model, codes = model_with_codes()
    model.to(dtype)
    before = copied_tensors(model)
    receipt = one_shot(model, codes, 1, level="output")
    goal = receipt.evidence["output_depth_goal"]
    assert receipt.evidence["output_depth"] == pytest.approx(goal, rel=0.5)
    assert receipt.evidence["output_depth"] >= goal - 0.5
    receipt.revert(model)
    assert_holds(model, before)
