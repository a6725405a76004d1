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

from fastforget.cli.factory import make
from fastforget.model import eager

__all__ = ["Checkpoint", "load", "read_tensors"]


@dataclass(frozen=True)
class Checkpoint:
    """A module with the weights of a file.

    Attributes:
        model: The eager module, in eval mode.
        path: The file.
        names: Of the tensors in it.
        metadata: What else is in it.
    """

    model: nn.Module
    path: Path
    names: tuple[str, ...]
    metadata: dict[str, str] | None

    @property
    def like(self) -> Tensor:
        """A parameter, whose device and dtype are those of the module.

        Raises:
            ValueError: There is none.
        """
        for parameter in self.model.parameters():
            return parameter
        raise ValueError("`--model` must return a module with parameters, got none")

    def save(self, path: Path) -> None:
        """Write the module as it is now, in a file like the one that was read: names, metadata and permissions.

        Args:
            path: The file; overwritten if it exists.
        """
        state = _state(self.model)
        # The format refuses tensors that share memory: write private copies.
        tensors = {name: state[name].cpu().clone(memory_format=torch.contiguous_format) for name in self.names}
        save_file(tensors, path, metadata=self.metadata)
        shutil.copymode(self.path, path)


def load(spec: str, path: Path) -> Checkpoint:
    """Make a module and load its weights, every bit of them and nothing else.

    Of weights that the module shares under several names, one name in the file is enough.

    Args:
        spec: The function that makes it, see `fastforget.cli.factory`.
        path: The safetensors file.

    Returns:
        The module, in eval mode.

    Raises:
        OSError: There is no such file.
        ValueError: It is not the checkpoint of such a module.
    """
    tensors, metadata = read_tensors(path)
    model = eager(make(spec)).eval()
    state = _state(model)
    _check_names(state, tensors, spec, path)
    for name, tensor in tensors.items():
        _check_kind(name, state[name], tensor, spec, path)
    model.load_state_dict(tensors, strict=False)
    for name, tensor in tensors.items():
        if not torch.equal(_bits(state[name]), _bits(tensor)):
            raise ValueError(f"`{path}` must hold what {spec} takes, but `{name}` differs from it after loading")
    return Checkpoint(model, path, tuple(tensors), metadata)


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
    with path.open("rb"):  # the operating system's own error for a missing or unreadable file
        pass
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            return tensors, file.metadata()
    except SafetensorError as error:
        raise ValueError(f"`{path}` must be a complete safetensors file: {error}") from error


def _state(model: nn.Module) -> dict[str, Tensor]:
    """Return what a checkpoint holds; extra state that is no tensor has no place there."""
    return {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}


def _check_names(state: Mapping[str, Tensor], tensors: Mapping[str, Tensor], spec: str, path: Path) -> None:
    loaded = {_memory(state[name]) for name in state.keys() & tensors.keys() if _is_whole(state[name])}
    missing = [name for name in state if name not in tensors and _memory(state[name]) not in loaded]
    unknown = [name for name in tensors if name not in state]
    faults = [f"it lacks {_listed(missing)}"] * bool(missing) + [f"it has {_listed(unknown)} besides"] * bool(unknown)
    if faults:
        raise ValueError(f"`{path}` must hold the tensors of {spec}, but {' and '.join(faults)}")


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _is_whole(tensor: Tensor) -> bool:
    return tensor.nbytes == tensor.untyped_storage().nbytes()


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(f"`{name}`" for name in names[:3]) + more


def _check_kind(name: str, expected: Tensor, found: Tensor, spec: str, path: Path) -> None:
    if expected.is_meta:
        raise ValueError(f"`--model` must return a module that holds values, got `{name}` on the meta device")
    if (expected.shape, expected.dtype) != (found.shape, found.dtype):
        raise ValueError(
            f"`{path}` must hold `{name}` as {expected.dtype} of shape {tuple(expected.shape)}, as {spec} makes it, "
            f"got {found.dtype} of {tuple(found.shape)}"
        )


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
