"""Rows of a batch, and all values of a result."""

from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from fastforget.fisher import FisherDiagonal


def rows(inputs: Any, index: Any) -> Any:
    return pytree.tree_map(lambda v: v[index] if isinstance(v, Tensor) else v, inputs)


def everything(found: FisherDiagonal) -> dict[str, Tensor]:
    assert found.gradient is not None
    return {**found, **{f"gradient of {name}": value for name, value in found.gradient.items()}, "losses": found.losses}
