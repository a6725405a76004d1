"""What the classes of a model are called, as far as the model knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from fastforget.classifier.compilation import eager

__all__ = ["class_names", "list_classes", "name_class", "read_names"]


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


def read_names(names: Any) -> tuple[str, ...] | None:
    """Check the names of classes that a caller gave.

    Args:
        names: The names of classes 0, 1, ... in order, or None.

    Returns:
        The names; None without.

    Raises:
        TypeError: They are something else.
    """
    if names is None:
        return None
    if isinstance(names, str) or not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        given = repr(names) if isinstance(names, str) else type(names).__name__
        raise TypeError(f"`names` must be the names of classes 0, 1, ... in a list of str, got {given}")
    return tuple(names)


def name_class(cls: int, names: Sequence[str] | None) -> str:
    """Return a class as a person reads it: its number, and its name if there is one.

    Args:
        cls: The class.
        names: The names of classes 0, 1, ... in order; None where they are not known.

    Returns:
        A text.

    Example:
        >>> name_class(1, ["trouser", "ankle boot"]), name_class(2, ["trouser", "ankle boot"])
        ('1 (ankle boot)', '2')
    """
    return f"{cls} ({names[cls]})" if names is not None and 0 <= cls < len(names) and names[cls] else str(cls)


def list_classes(classes: Sequence[int], names: Sequence[str] | None) -> list[str | None]:
    """Return the names of classes, for programs; None for one that has none."""
    return [names[cls] if names is not None and 0 <= cls < len(names) else None for cls in classes]


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
