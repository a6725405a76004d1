"""Networks in safetensors files."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_model
from torch import nn

__all__ = ["load_into"]


def load_into(model: nn.Module, path: Path, key: str) -> nn.Module:
    """Load the weights of a network.

    Args:
        model: A module like the one that was saved.
        path: The file; a tensor that the module shares under several names may have one name in it.
        key: Of the configuration, for errors.

    Returns:
        The module, in eval mode.

    Raises:
        ValueError: The file holds something else.
    """
    try:
        load_model(model, str(path))
    except (RuntimeError, SafetensorError, ValueError) as error:
        raise ValueError(f"`{key}` must be a checkpoint of what `model.make` makes, got {path}: {error}") from error
    return model.eval()
