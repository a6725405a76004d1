"""Small models that were edited, with their receipts."""

import copy
from typing import Any

from known_codes import model_with_codes
from torch import nn

from fastforget import Receipt, one_shot

RULES = ["natural", "paper"]


def edited(rule: Any = "natural", *, rho: float = 0.1, undo: bool = True) -> tuple[nn.Module, nn.Module, Receipt]:
    """A model before and after an edit, and the receipt."""
    model, codes = model_with_codes()
    original = copy.deepcopy(model)
    return original, model, one_shot(model, codes, 1, rule=rule, rho=rho, undo=undo)
