"""Settings that contradict a definition are refused."""

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from asserts import prepared
from fisher.definition_cases import MODELS
from models import LABELS, N
from torch import nn

from fastforget.classifier.losses import ScaledCrossEntropy
from fastforget.fisher.compute import fisher_diagonal

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
