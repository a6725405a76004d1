"""Checkpoints: the weights of a module as a safetensors file."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fastforget.classifier.compilation import eager
from fastforget.cli.factory import make
from fastforget.edits.history import EditHistory
from fastforget.files import checked

__all__ = ["LoadedModel", "load", "read_tensors"]


@dataclass(frozen=True)
class LoadedModel:
    """A module with the weights of a checkpoint.

    Attributes:
        model: The eager module, in eval mode.
        path: The checkpoint.
        names: The names of its tensors.
        metadata: The metadata in its header.
    """

    model: nn.Module
    path: Path
    names: tuple[str, ...]
    metadata: dict[str, str] | None

    @property
    def first_parameter(self) -> Tensor:
        """The first parameter. The model is taken to have its device and dtype.

        Raises:
            ValueError: There is none.
        """
        for parameter in self.model.parameters():
            return parameter
        raise ValueError("`--model` must return a module with parameters, got none")

    @property
    def history(self) -> EditHistory:
        """The edits that led to the checkpoint, as its metadata say.

        Raises:
            ValueError: They cannot be read.
        """
        try:
            return EditHistory.read(self.metadata)
        except ValueError as error:
            raise ValueError(f"`{self.path}` has a history of edits that cannot be read: {error}") from error

    def save(self, path: Path, history: EditHistory) -> None:
        """Write the module as it is now, with the names, metadata and permissions of the checkpoint.

        Args:
            path: The file; overwritten if it exists.
            history: The edits that led to what is written, for the metadata.
        """
        tensors = _tensors_of(self.model)
        # The format refuses tensors that share memory, so each is copied.
        copies = {name: tensors[name].cpu().clone(memory_format=torch.contiguous_format) for name in self.names}
        save_file(copies, path, metadata=history.written_into(self.metadata))
        shutil.copymode(self.path, path)


def load(factory: str, path: Path) -> LoadedModel:
    """Make a module and load its weights. The file must hold all of them, and nothing else.

    Weights that the module shares under several names may have one name in the file.

    Args:
        factory: The function that makes the module, see `fastforget.cli.factory`.
        path: The checkpoint.

    Returns:
        The module, in eval mode.

    Raises:
        OSError: There is no such file.
        ValueError: It is not the checkpoint of such a module.
    """
    loaded, metadata = read_tensors(path)
    model = eager(make(factory)).eval()
    tensors = _tensors_of(model)
    _check_names(tensors, loaded, factory, path)
    for name, tensor in loaded.items():
        _check_shape_and_dtype(name, tensors[name], tensor, factory, path)
    model.load_state_dict(loaded, strict=False)
    for name, tensor in loaded.items():
        if not torch.equal(_bytes(tensors[name]), _bytes(tensor)):
            raise ValueError(f"`{path}` must hold what {factory} takes, but `{name}` differs from it after loading")
    return LoadedModel(model, path, tuple(loaded), metadata)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str] | None]:
    """Read a safetensors file.

    Args:
        path: The file.

    Returns:
        Its tensors, on the CPU, and its metadata.

    Raises:
        OSError: There is no such file.
        ValueError: It is no complete file of this format.
    """
    with path.open("rb"):  # raises the operating system's own error for a missing or unreadable file
        pass
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a dict
            return tensors, file.metadata()
    except SafetensorError as error:
        raise ValueError(f"`{path}` must be a complete safetensors file: {error}{checked.remedy(path)}") from error


def _tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return what a checkpoint can hold: the state without extra state that is no tensor."""
    return {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}


def _check_names(tensors: Mapping[str, Tensor], loaded: Mapping[str, Tensor], factory: str, path: Path) -> None:
    whole = [tensors[name] for name in tensors.keys() & loaded.keys() if _fills_its_storage(tensors[name])]
    addresses = {_storage_address(tensor) for tensor in whole}
    missing = [n for n, tensor in tensors.items() if n not in loaded and _storage_address(tensor) not in addresses]
    unknown = [name for name in loaded if name not in tensors]
    faults = [f"it lacks {_first_names(missing)}"] * bool(missing)
    faults += [f"it has {_first_names(unknown)} besides"] * bool(unknown)
    if faults:
        raise ValueError(f"`{path}` must hold the tensors of {factory}, but {' and '.join(faults)}")


def _storage_address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _fills_its_storage(tensor: Tensor) -> bool:
    return tensor.nbytes == tensor.untyped_storage().nbytes()


def _first_names(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(f"`{name}`" for name in names[:3]) + more


def _check_shape_and_dtype(name: str, expected: Tensor, loaded: Tensor, factory: str, path: Path) -> None:
    if expected.is_meta:
        raise ValueError(f"`--model` must return a module that holds values, got `{name}` on the meta device")
    if (expected.shape, expected.dtype) != (loaded.shape, loaded.dtype):
        raise ValueError(
            f"`{path}` must hold `{name}` as {expected.dtype} of shape {tuple(expected.shape)}, as {factory} makes it, "
            f"got {loaded.dtype} of {tuple(loaded.shape)}"
        )


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
