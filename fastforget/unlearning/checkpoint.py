"""Work that was interrupted: how far it got, and everything that the rest of it depends on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from fastforget.files import checkpoint_file

__all__ = ["Checkpoint", "tensors_of"]


@dataclass(frozen=True)
class Checkpoint:
    """A state of `learn_to_unlearn`.

    Attributes:
        before: Fingerprint of the model that it started from.
        settings: What was asked for.
        step: How many steps were taken.
        evidence: Their losses.
        tensors: Parameters, state of the optimiser and of the generator, see `fastforget.files.checkpoint_file`.
    """

    before: str
    settings: dict[str, float | str]
    step: int
    evidence: dict[str, float]
    tensors: dict[str, Tensor]

    def save(self, path: str | PathLike[str]) -> None:
        """Write it to a file, which is whole at any time."""
        description = {key: value for key, value in vars(self).items() if key != "tensors"}
        checkpoint_file.write(path, description, self.tensors)

    @classmethod
    def load(cls, path: str | PathLike[str], before: str, settings: Mapping[str, float | str], most: int) -> Checkpoint:
        """Read the state of the same work.

        Args:
            path: The file.
            before: Fingerprint of the model that the work starts from.
            settings: What is asked for.
            most: How many steps.

        Returns:
            The state.

        Raises:
            FileNotFoundError: There is none.
            ValueError: The file is truncated, changed, foreign, or of other work.
        """
        try:
            description, tensors = checkpoint_file.read(path)
            _check_same(description, before, settings, most)
        except ValueError as error:
            raise ValueError(f"`{path}` cannot be gone on from: {error}; remove it to start anew") from error
        return cls(**description, tensors=tensors)

    def restore(
        self, parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, generator: torch.Generator
    ) -> None:
        """Put the tensors where they were.

        Args:
            parameters: Those that move, by name, in their order.
            optimizer: Of these parameters, as it starts.
            generator: On the CPU.

        Raises:
            ValueError: The tensors are not of these.
        """
        state = _optimizer_state(self.tensors, [parameter.shape for parameter in parameters.values()])
        held = {key.removeprefix("parameter/") for key in self.tensors if key.startswith("parameter/")}
        if held != set(parameters):
            raise ValueError(f"the checkpoint must hold the parameters {sorted(parameters)}, got {sorted(held)}")
        values = {name: self.tensors[f"parameter/{name}"] for name in parameters}
        for name, parameter in parameters.items():
            if values[name].shape != parameter.shape or values[name].dtype != parameter.dtype:
                raise ValueError(f"the checkpoint must hold parameter `{name}` of {parameter.dtype}")
        known = generator.get_state()
        random = self.tensors.get("generator", known[:0])
        if random.dtype != known.dtype or random.shape != known.shape:
            raise ValueError("the checkpoint must hold the state of a random generator")
        try:
            generator.set_state(random)
        except RuntimeError as error:
            raise ValueError(f"the checkpoint must hold the state of a random generator ({error})") from error
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(values[name])
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _optimizer_state(tensors: Mapping[str, Tensor], shapes: Sequence[torch.Size]) -> dict[int, dict[str, Tensor]]:
    """Return the state of the optimiser by the place of the parameter."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        kind, _, rest = key.partition("/")
        if kind != "optimizer":
            continue
        place, _, name = rest.partition("/")
        if not (place.isascii() and place.isdecimal() and len(place) < 9 and int(place) < len(shapes)):
            raise ValueError(f"the checkpoint must hold state of {len(shapes)} parameters, got {key!r}")
        if tensor.dim() and tensor.shape != shapes[int(place)]:
            raise ValueError(f"the checkpoint's {key!r} must have shape {tuple(shapes[int(place)])}")
        state.setdefault(int(place), {})[name] = tensor
    return state


def _check_same(description: Mapping[str, Any], before: str, settings: Mapping[str, float | str], most: int) -> None:
    if description["before"] != before:
        raise ValueError(f"it is of a model with fingerprint {description['before']}, not {before}")
    for name in sorted({*settings, *description["settings"]}):
        was, now = description["settings"].get(name), settings.get(name)
        if was != now:
            raise ValueError(f"its `{name}` is {was!r}, not {now!r}")
    if not 1 <= description["step"] <= most:
        raise ValueError(f"it is of {description['step']} steps, and {most} are asked for")


def tensors_of(
    parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, generator: torch.Generator
) -> dict[str, Tensor]:
    """Return what `Checkpoint.restore` puts back.

    Args:
        parameters: Those that move, by name, in their order.
        optimizer: Of these parameters.
        generator: On the CPU.

    Returns:
        Copies by name.
    """
    found = {f"parameter/{name}": value for name, value in parameters.items()}
    for place, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            if value is not None:
                found[f"optimizer/{place}/{name}"] = torch.as_tensor(value, device=getattr(value, "device", "cpu"))
    found["generator"] = generator.get_state()
    return {name: value.detach().clone() for name, value in found.items()}
