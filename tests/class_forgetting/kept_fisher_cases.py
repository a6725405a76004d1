"""Kept Fisher sums, the elements that an edit moved, and a model that fails when asked to."""

import math
from typing import Any

from torch import Tensor, nn

from fastforget import FisherDiagonal, MnemonicCodes, Receipt, fisher_diagonal


def keep(model: nn.Module, codes: MnemonicCodes, **settings: Any) -> FisherDiagonal:
    dtype = next(model.parameters()).dtype
    codes = codes.to(dtype)
    return fisher_diagonal(model, codes.inputs, codes.labels, reduction="sum", **settings)


def positions(receipt: Receipt) -> set[tuple[str, int]]:
    found = set()
    for name, edit in receipt.edits.items():
        indices = range(len(edit.new)) if edit.indices is None else edit.indices.tolist()
        found |= {(name, index) for index in indices}
    return found


class Fragile(nn.Module):
    """Fails at one of its calls."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside, self.calls, self.failing = inside, 0, math.inf

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls >= self.failing:
            raise OSError("in the middle")
        return self.inside(x)
