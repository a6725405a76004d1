"""Where the weights of a module lie in an ONNX model, and how to put others stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from fastforget.serving.engines.optional import require
from fastforget.serving.engines.swapped import parameter_names, weights_of

__all__ = ["LIMIT", "Array", "Place", "find_places", "load", "missing_parameters", "patched"]

LIMIT = 2**31 - 1  # bytes that an ONNX model without files beside it can have
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Place:
    """Where a weight lies.

    Attributes:
        initializer: Name of the initializer.
        weight: Name of the parameter or buffer whose values it holds.
        transposed: Whether it holds them transposed, as exporters store those of linear layers.
    """

    initializer: str
    weight: str
    transposed: bool


def load(model: Any) -> bytes:
    """Return the bytes of an ONNX model, weights included.

    Args:
        model: Path, bytes or onnx.ModelProto.

    Raises:
        OSError: It cannot be read.
        TypeError: It is none of these.
        ValueError: It is no ONNX model, or too large.
    """
    onnx = require("onnx", "onnx")

    if not isinstance(model, (bytes, str, PathLike, onnx.ModelProto)):
        raise TypeError(f"`model` must be a path, bytes or onnx.ModelProto, got {type(model).__name__}")
    try:
        if isinstance(model, bytes):
            model = onnx.load_model_from_string(model)
        elif not isinstance(model, onnx.ModelProto):
            model = onnx.load(model)  # with the files beside it
    except (OSError, TypeError):
        raise
    except Exception as error:
        raise ValueError(f"`model` must be an ONNX model: {error}") from error
    size = sum(len(initializer.raw_data) for initializer in model.graph.initializer)
    if size > LIMIT:
        raise ValueError(f"`model` must be smaller than 2 GB, got {size / 1e9:.1f} GB of weights")
    return bytes(model.SerializeToString())


def find_places(content: bytes, model: nn.Module) -> list[Place]:
    """Find where the weights of a module lie: by name, or by equal values where an initializer has another name.

    Args:
        content: An ONNX model with the weights of the module.
        model: The module.

    Returns:
        A place for each initializer that holds the values of a weight.

    Raises:
        ValueError: One holds those of several weights.
    """
    arrays = _arrays(content)
    weights = {name: _array(value) for name, value in weights_of(model).items()}
    same_names = [_place(name, arrays[name], name, weights[name]) for name in sorted(arrays.keys() & weights.keys())]
    places = [place for place in same_names if place is not None]
    named = {place.weight for place in places}
    unnamed = {first for first, names in parameter_names(model).items() if not names & named}
    for name in sorted(arrays.keys() - weights.keys()):
        same_values = [_place(name, arrays[name], weight, weights[weight]) for weight in sorted(unnamed)]
        fitting = [place for place in same_values if place is not None]
        if len(fitting) > 1:
            raise ValueError(
                f"initializer `{name}` must hold the values of one parameter, got those of `{fitting[0].weight}` and "
                f"`{fitting[1].weight}`, which are equal; export with optimize=False, so that it has their names"
            )
        places += fitting
    return places


def missing_parameters(places: list[Place], model: nn.Module) -> list[str]:
    """Return the parameters that lie nowhere."""
    placed = {place.weight for place in places}
    return [first for first, names in parameter_names(model).items() if not names & placed]


def patched(content: bytes, places: list[Place], model: nn.Module) -> bytes:
    """Return an ONNX model with the weights of a module in place of its own.

    Args:
        content: The ONNX model.
        places: Where they belong.
        model: The module.

    Returns:
        The bytes of the new one.
    """
    onnx = require("onnx", "onnx")

    patched_model = onnx.load_model_from_string(content)
    weights, wanted = weights_of(model), {place.initializer: place for place in places}
    for initializer in patched_model.graph.initializer:
        place = wanted.get(initializer.name)
        if place is not None:
            values = _array(weights[place.weight])
            values = (values.T if place.transposed else values).reshape(tuple(initializer.dims))
            initializer.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(values), initializer.name))
    return bytes(patched_model.SerializeToString())


def _arrays(content: bytes) -> Mapping[str, Array]:
    onnx = require("onnx", "onnx")

    graph = onnx.load_model_from_string(content).graph
    return {initializer.name: onnx.numpy_helper.to_array(initializer) for initializer in graph.initializer}


def _array(value: Tensor) -> Array:
    try:
        return value.detach().cpu().numpy()
    except TypeError as error:
        raise ValueError(f"weights must be of a type that numpy has, got {value.dtype}") from error


def _place(initializer: str, stored: Array, weight: str, values: Array) -> Place | None:
    """Return the place if an initializer holds the values of a weight, in any shape, or transposed."""
    if stored.dtype != values.dtype or stored.size != values.size:
        return None
    if np.array_equal(stored.ravel(), values.ravel()):
        return Place(initializer, weight, transposed=False)
    if stored.ndim == 2 and stored.shape == values.shape[::-1] and np.array_equal(stored.T, values):
        return Place(initializer, weight, transposed=True)
    return None
