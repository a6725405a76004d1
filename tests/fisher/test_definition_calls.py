"""Every definition leaves the model and the gradient mode as they were."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from asserts import assert_same_bits, prepared
from fisher.definition_cases import MODELS
from fisher.disturbable_models import assert_same, noisy, snapshot
from models import LABELS, N
from torch import Tensor, nn

from fastforget.fisher.compute import fisher_diagonal

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
