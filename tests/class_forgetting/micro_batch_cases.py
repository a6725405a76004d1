"""Requests that are made in one batch and in micro-batches."""

import copy
from typing import Any

from class_forgetting.kept_fisher_cases import keep
from class_forgetting.one_shot_cases import RHO
from torch import nn

from fastforget import MnemonicCodes, Receipt, one_shot

REQUESTS: dict[str, dict[str, Any]] = {
    "natural": {"cls": 1},
    "more parameters": {"cls": 1, "rho": 0.01, "spill": 0.5},
    "several classes": {"cls": [0, 3]},
    "after another": {"cls": 2, "forgotten": 0},
    "paper": {"cls": 1, "rule": "paper"},
    "floor": {"cls": 1, "floor": 0.5},
    "kept": {"cls": 1, "fisher": True},
    "kept, updated": {"cls": 1, "fisher": True, "update": True},
}


def request(name: str, model: nn.Module, codes: MnemonicCodes) -> dict[str, Any]:
    """The settings, with a sum over the codes and samples for the floor where they belong to them."""
    settings = {"rho": RHO} | REQUESTS[name]
    if "floor" in settings:
        codes = codes.to(next(model.parameters()).dtype)
        settings["floor"] = (codes.inputs, codes.labels, settings["floor"])
    if "fisher" in settings:
        settings["fisher"] = keep(model, codes)
    return settings


def edited(name: str, model: nn.Module, codes: MnemonicCodes, batch_size: int | None) -> tuple[nn.Module, Receipt]:
    model = copy.deepcopy(model)
    return model, one_shot(model, codes, **request(name, model, codes), batch_size=batch_size)
