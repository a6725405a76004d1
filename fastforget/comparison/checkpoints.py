"""Networks in safetensors files: those of others, and those that are trained once and kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model, save_model
from torch import nn

from fastforget.auditing.cost import Cost, measure_cost
from fastforget.classifier.fingerprint import fingerprint
from fastforget.files.durable import whole_files

__all__ = ["Network", "kept_network", "load_into", "random_state"]


@dataclass(frozen=True, eq=False)
class Network:
    """A trained network.

    Attributes:
        model: The eager module, in eval mode; it must not be changed.
        cost: What its training took; None where somebody else trained it.
    """

    model: nn.Module
    cost: Cost | None

    @property
    def fingerprint(self) -> str:
        """What tells it from others."""
        return fingerprint(self.model)


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


def kept_network(path: Path, build: Callable[[], nn.Module], train: Callable[[nn.Module], object]) -> Network:
    """Return a network from a file; train it and write the file if there is none. The random state is put back.

    Args:
        path: The file; its folder is made.
        build: Makes an untrained network, the same one each time; sets the random state that ``train`` begins with.
        train: Trains it in place.

    Returns:
        The network, with what its training took.

    Raises:
        ValueError: The training did not stay finite, or the file holds something else.
    """
    with random_state():
        if not path.exists():
            model = build().train()
            with measure_cost(next(model.parameters()).device) as cost:
                train(model)
            if not all(bool(parameter.isfinite().all()) for parameter in model.parameters()):
                raise ValueError("`training` must leave the parameters finite; a smaller `lr` may help")
            path.parent.mkdir(parents=True, exist_ok=True)
            spent = {"seconds": cost.seconds, "cpu_seconds": cost.cpu_seconds}
            with whole_files(path) as (draft,):
                save_model(model, str(draft), {"cost": json.dumps(spent)})
        trained = load_into(build(), path, "output")
    with safe_open(path, "pt") as opened:
        said = (opened.metadata() or {}).get("cost", "null")
    try:
        spent = json.loads(said)
        cost = Cost(float(spent["seconds"]), float(spent["cpu_seconds"]))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"`{path}` must say what its training took, and does not: remove it") from error
    return Network(trained, cost)


def random_state() -> Any:
    """Return a context that puts the random state of all devices back at its end."""
    return torch.random.fork_rng(devices=range(torch.cuda.device_count()))
