"""What the classes of a model are called, as far as the model knows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from fastforget.classifier.compilation import eager

__all__ = ["class_names"]


def class_names(model: nn.Module) -> list[str] | None:
    """Return the names in ``model.config.id2label`` of transformers, or in ``model.pretrained_cfg`` of timm.

    Args:
        model: Any module.

    Returns:
        The names of classes 0, 1, ... in order. None where the model has none, or not of every class from 0 on, or
        only those that transformers makes up, "LABEL_0".

    Raises:
        TypeError: Not an eager module.
    """
    inner = eager(model)
    found = getattr(getattr(inner, "config", None), "id2label", None)
    if not isinstance(found, Mapping):
        found = _names_of_timm(inner)
    named = {str(key): str(name) for key, name in found.items()}  # a configuration in JSON has strings for keys
    names = [named.get(str(cls)) for cls in range(len(named))]
    known = [name for name in names if name is not None]
    made_up = [f"LABEL_{cls}" for cls in range(len(names))]
    return known if known and len(known) == len(names) and known != made_up else None


def _names_of_timm(model: nn.Module) -> Mapping[Any, Any]:
    """Return the names by class: descriptions of the names in ``label_names`` where there are some."""
    settings = getattr(model, "pretrained_cfg", None)
    if not isinstance(settings, Mapping):
        return {}
    names, described = settings.get("label_names"), settings.get("label_descriptions")
    if isinstance(names, (list, tuple)):
        names = dict(enumerate(names))
    if not isinstance(names, Mapping) or getattr(model, "num_classes", len(names)) != len(names):
        return {}  # those that are not as many are of an earlier output layer
    return {cls: described.get(name, name) if isinstance(described, Mapping) else name for cls, name in names.items()}
