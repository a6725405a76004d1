"""What the classes of a model are called, as far as the model knows."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from fastforget.classifier.compilation import eager

__all__ = ["class_names"]


def class_names(model: nn.Module) -> list[str] | None:
    """Return the names in ``model.config.id2label``, where models of transformers have them.

    Args:
        model: Any module.

    Returns:
        The names of classes 0, 1, ... in order. None where the model has none, or not of every class from 0 on, or
        only those that transformers makes up, "LABEL_0".

    Raises:
        TypeError: Not an eager module.
    """
    found = getattr(getattr(eager(model), "config", None), "id2label", None)
    if not isinstance(found, Mapping):
        return None
    named = {str(key): str(name) for key, name in found.items()}  # a configuration in JSON has strings for keys
    names = [named.get(str(cls)) for cls in range(len(named))]
    known = [name for name in names if name is not None]
    made_up = [f"LABEL_{cls}" for cls in range(len(names))]
    return known if known and len(known) == len(names) and known != made_up else None
