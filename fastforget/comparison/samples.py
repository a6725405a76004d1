"""The samples of a comparison: read, checked, moved to the model, divided, and told apart by a digest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.utils import _pytree as pytree

from fastforget.classifier.inputs import Inputs
from fastforget.classifier.labelled_batches import joined
from fastforget.classifier.named_functions import import_named

__all__ = ["Samples", "read_samples"]


@dataclass(frozen=True, eq=False)
class Samples:
    """Samples with their classes.

    Attributes:
        inputs: What the model takes, leaves [N, ...].
        targets: int64 [N].
    """

    inputs: Inputs
    targets: Tensor

    def __len__(self) -> int:
        """Return N."""
        return len(self.targets)

    @property
    def pair(self) -> tuple[Inputs, Tensor]:
        """Inputs and targets, as methods and audits take them."""
        return self.inputs, self.targets

    @property
    def classes(self) -> list[int]:
        """The classes of which there are samples, in order."""
        return sorted(set(self.targets.tolist()))

    def rows(self, rows: Tensor) -> Samples:
        """Return some samples: those of a mask, bool [N], or of places, int64."""
        return Samples(*pytree.tree_map_only(Tensor, lambda leaf: leaf[rows.to(leaf.device)], self.pair))

    def first_few(self, count: int | None) -> Samples:
        """Return at most ``count`` samples, drawn at random and always the same ones; None for all of them."""
        if count is None or count >= len(self):
            return self
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(0))
        return self.rows(order[:count].sort().values)

    def where(self, like: Tensor) -> Samples:
        """Return the samples on the device of a tensor; floating-point ones get its dtype."""

        def moved(leaf: Tensor) -> Tensor:
            return leaf.to(like.device, like.dtype if leaf.is_floating_point() else leaf.dtype)

        return Samples(*pytree.tree_map_only(Tensor, moved, self.pair))

    def digest(self) -> str:
        """Return a text that is another one for other samples."""
        leaves, structure = pytree.tree_flatten(self.pair)
        found = hashlib.sha256(str(structure).encode())
        for leaf in leaves:
            if isinstance(leaf, Tensor):
                found.update(f"{leaf.dtype} {tuple(leaf.shape)}".encode())
                found.update(leaf.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
            else:
                found.update(repr(leaf).encode())
        return found.hexdigest()


def read_samples(source: Any, key: str, folder: Path) -> Samples:
    """Read samples.

    Args:
        source: A file .npz or .safetensors with ``targets`` and ``inputs``, or the arguments of the model by name;
            "package.module:function", which returns them in a form that
            `fastforget.classifier.data_forms.batches_of` takes; such a function; or samples in such a form.
        key: Of the configuration, for errors.
        folder: What files are relative to.

    Returns:
        The samples.

    Raises:
        OSError: There is no such file.
        ImportError: There is no such function.
        RuntimeError: The function failed.
        TypeError: What it returned has another form.
        ValueError: It is neither file nor function, the file holds something else, or inputs are not finite.
    """
    if isinstance(source, str):
        source = _named(source, key, folder)
    if callable(source) and not hasattr(source, "__getitem__"):
        try:
            source = source()
        except Exception as error:
            raise RuntimeError(f"`{key}` failed: {type(error).__name__}: {error}") from error
    try:
        samples = Samples(*joined(source, key))
    except ValueError as error:
        raise error if f"`{key}`" in str(error) else ValueError(f"`{key}`: {error}") from error
    for leaf in pytree.tree_leaves(samples.inputs):
        if isinstance(leaf, Tensor) and leaf.is_floating_point() and not bool(leaf.isfinite().all()):
            raise ValueError(f"inputs of `{key}` must be finite, got NaN or infinity")
    return samples


def _named(text: str, key: str, folder: Path) -> Any:
    suffix = Path(text).suffix
    if suffix not in {".npz", ".safetensors"}:
        if all(text.partition(":")):
            return import_named(text, key, folder)
        raise ValueError(f"`{key}` must be a file .npz or .safetensors, or 'package.module:function', got {text!r}")
    path = folder / text
    if not path.is_file():
        raise FileNotFoundError(f"`{key}` must be a file that exists, got {path}")
    tensors = _arrays(path, key) if suffix == ".npz" else _tensors(path, key)
    if "targets" not in tensors:
        raise ValueError(f"`{key}` must hold `targets`, the classes of the samples, got {sorted(tensors)} in {path}")
    targets = tensors.pop("targets")
    if not tensors or ("inputs" in tensors and len(tensors) > 1):
        raise ValueError(
            f"`{key}` must hold `inputs`, or the arguments of the model by name, got {sorted(tensors)} in {path}"
        )
    return tensors.get("inputs", tensors), targets


def _arrays(path: Path, key: str) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found: Mapping[str, Any] = {name: arrays[name] for name in arrays.files}
        targets = {name: found[name] for name in found if name == "targets"}  # integers of any width are taken
        return targets | {name: torch.from_numpy(found[name]) for name in found if name != "targets"}
    except Exception as error:
        raise ValueError(f"`{key}` must be a complete file of arrays without objects, got {path}: {error}") from error


def _tensors(path: Path, key: str) -> dict[str, Any]:
    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise ValueError(f"`{key}` must be a complete safetensors file, got {path}: {error}") from error
