"""The layers of a classifier that methods look for."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

__all__ = ["layers_with_parameters", "output_layer"]


def layers_with_parameters(model: nn.Module) -> Sequence[nn.Module]:
    """Return the modules that have parameters of their own, in the order in which they were made."""
    return [module for module in model.modules() if next(module.parameters(recurse=False), None) is not None]


def output_layer(model: nn.Module, classes: int) -> tuple[nn.Module, str, nn.Linear]:
    """Return the last linear layer with an output for each class, with its parent and its name there.

    Raises:
        ValueError: There is none.
    """
    candidates = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.Linear) and child.out_features == classes
    ]
    if not candidates:
        raise ValueError(f"`model` must have a linear layer with {classes} outputs below it")
    return candidates[-1]
