"""A checkpoint of `learn_to_unlearn`: how far the work got, and everything that its other steps depend on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from fastforget.files import checkpoint_file

__all__ = ["Checkpoint", "state_tensors"]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The state of `learn_to_unlearn` after some step.

    Attributes:
        before: Fingerprint of the model that the work started from.
        settings: Everything that must be the same for the work to be continued.
        step: How many steps were taken.
        evidence: Losses of the first and the last one.
        tensors: Parameters, state of the optimiser and of the generator, see `fastforget.files.checkpoint_file`.
    """

    before: str
    settings: dict[str, float | str]
    step: int
    evidence: dict[str, float]
    tensors: dict[str, Tensor]

    def save(self, path: str | PathLike[str]) -> None:
        """Write a file, which is whole at any time."""
        description = {
            "before": self.before,
            "settings": self.settings,
            "step": self.step,
            "evidence": self.evidence,
        }
        checkpoint_file.write(path, description, self.tensors)

    @classmethod
    def load(
        cls, path: str | PathLike[str], before: str, settings: Mapping[str, float | str], steps: int
    ) -> Checkpoint:
        """Read a checkpoint of the same work.

        Args:
            path: The file.
            before: Fingerprint of the model that the work starts from.
            settings: What the checkpoint must agree in.
            steps: How many are asked for.

        Returns:
            The checkpoint.

        Raises:
            FileNotFoundError: There is none.
            ValueError: The file is truncated, changed, foreign, or of other work.
        """
        try:
            description, tensors = checkpoint_file.read(path)
            _check_same_work(description, before, settings, steps)
        except ValueError as error:
            raise ValueError(f"`{path}` cannot be gone on from: {error}; remove it to start anew") from error
        return cls(**description, tensors=tensors)

    def restore(
        self, parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, generator: torch.Generator
    ) -> None:
        """Put parameters, optimiser and generator into the state of the checkpoint; check the tensors first.

        Args:
            parameters: Those that move, by name, in their order.
            optimizer: Of these parameters, as it starts.
            generator: On the CPU.

        Raises:
            ValueError: The tensors are not of these.
        """
        optimizer_state = _optimizer_state(self.tensors, [parameter.shape for parameter in parameters.values()])
        values = self._parameter_values(parameters)
        self._restore_generator(generator)
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(values[name])
        optimizer.load_state_dict({"state": optimizer_state, "param_groups": optimizer.state_dict()["param_groups"]})

    def _parameter_values(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        names = {key.removeprefix("parameter/") for key in self.tensors if key.startswith("parameter/")}
        if names != set(parameters):
            raise ValueError(f"the checkpoint must hold the parameters {sorted(parameters)}, got {sorted(names)}")
        values = {name: self.tensors[f"parameter/{name}"] for name in parameters}
        for name, parameter in parameters.items():
            if values[name].shape != parameter.shape or values[name].dtype != parameter.dtype:
                raise ValueError(f"the checkpoint must hold parameter `{name}` of {parameter.dtype}")
        return values

    def _restore_generator(self, generator: torch.Generator) -> None:
        current = generator.get_state()
        state = self.tensors.get("generator", current[:0])
        if state.dtype != current.dtype or state.shape != current.shape:
            raise ValueError("the checkpoint must hold the state of a random generator")
        try:
            generator.set_state(state)
        except RuntimeError as error:
            raise ValueError(f"the checkpoint must hold the state of a random generator ({error})") from error


def state_tensors(
    parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, generator: torch.Generator
) -> dict[str, Tensor]:
    """Return the tensors that `Checkpoint.restore` needs.

    Args:
        parameters: Those that move, by name, in their order.
        optimizer: Of these parameters.
        generator: On the CPU.

    Returns:
        Copies by name.
    """
    tensors = {f"parameter/{name}": value for name, value in parameters.items()}
    for place, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            if value is not None:
                tensors[f"optimizer/{place}/{name}"] = torch.as_tensor(value, device=getattr(value, "device", "cpu"))
    tensors["generator"] = generator.get_state()
    return {name: value.detach().clone() for name, value in tensors.items()}


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


def _check_same_work(
    description: Mapping[str, Any], before: str, settings: Mapping[str, float | str], steps: int
) -> None:
    if description["before"] != before:
        raise ValueError(f"it is of a model with fingerprint {description['before']}, not {before}")
    for name in sorted({*settings, *description["settings"]}):
        was, now = description["settings"].get(name), settings.get(name)
        if was != now:
            raise ValueError(f"its `{name}` is {was!r}, not {now!r}")
    if not 1 <= description["step"] <= steps:
        raise ValueError(f"it is of {description['step']} steps, and {steps} are asked for")
