"""The networks of a comparison: originals, and references trained again; trained once, kept on disk, and reused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_model
from torch import Tensor, nn

from fastforget.auditing.cost import Cost, measure_cost
from fastforget.classifier.fingerprint import fingerprint
from fastforget.comparison.checkpoints import load_into
from fastforget.comparison.functions import Function
from fastforget.comparison.plan import Plan
from fastforget.files.durable import whole_files

__all__ = ["Network", "Networks", "digest_of", "random_state"]

_APART = 1000  # seeds of references of the same original are so far apart


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


class Networks:
    """Trains networks, or takes them from the folder where an earlier call left them.

    Args:
        plan: The comparison.
        folder: Where networks are kept.
        tell: Called with what is being trained.
    """

    def __init__(self, plan: Plan, folder: Path, tell: Callable[[str], object]) -> None:
        self._plan, self._folder, self._tell = plan, folder, tell

    def original(self, seed: int) -> Network:
        """Return the network that is to forget."""
        if self._plan.checkpoint is not None:
            return self._given(self._plan.checkpoint, seed, "model.checkpoint")
        everything = torch.ones(len(self._plan.data.train), dtype=torch.bool)
        return self._trained("original", seed, seed, everything)

    def retrained(self, seed: int, place: int, keep: Tensor) -> Network:
        """Return a reference: trained by the same recipe, without the samples to forget.

        The first one begins with the same weights as the original; others have seeds of their own.

        Args:
            seed: Of the original.
            place: Which of the references.
            keep: The samples that it is trained on, bool [N].
        """
        if self._plan.retrained:
            return self._given(self._plan.retrained[place], seed, "model.retrained")
        return self._trained(f"retrained-{place}", seed, seed + _APART * place, keep)

    def _given(self, name: str, seed: int, key: str) -> Network:
        with random_state():
            return Network(load_into(self._plan.build(seed), self._plan.folder / name.format(seed=seed), key), None)

    def _trained(self, kind: str, seed: int, own_seed: int, keep: Tensor) -> Network:
        recipe = self._plan.training
        if recipe is None:
            raise RuntimeError("a network without a recipe must be given as a file")
        named = {
            "make": self._plan.make.name,
            "training": [recipe.name, dict(recipe.settings)],
            "seed": own_seed,
            "samples": [self._plan.data.digests, _digest(keep)],
        }
        path = self._folder / f"{kind}-of-seed-{seed}-{digest_of(named)[:12]}.safetensors"
        with random_state():
            if not path.exists():
                self._tell(f"seed {seed}: training {kind.partition('-')[0]}")
                self._train(recipe, path, keep, own_seed)
            model = load_into(self._plan.build(own_seed), path, "output")
        with safe_open(path, "pt") as opened:
            spent = json.loads(opened.metadata()["cost"])
        return Network(model, Cost(spent["seconds"], spent["cpu_seconds"]))

    def _train(self, recipe: Function, path: Path, keep: Tensor, seed: int) -> None:
        model = self._plan.build(seed)
        samples = self._plan.data.train.rows(keep)
        device = next(model.parameters()).device
        with measure_cost(device) as cost:
            result = recipe(model.train(), samples.pair, given=self._plan.given(seed))
        if isinstance(result, nn.Module) and result is not model:
            raise TypeError("`training.function` must train the network in place, but returned another one")
        if not all(bool(parameter.isfinite().all()) for parameter in model.parameters()):
            raise ValueError("`training` must leave the parameters finite; a smaller `lr` may help")
        self._folder.mkdir(parents=True, exist_ok=True)
        spent = {"seconds": cost.seconds, "cpu_seconds": cost.cpu_seconds}
        with whole_files(path) as (draft,):
            save_model(model, str(draft), {"cost": json.dumps(spent)})


def random_state() -> Any:
    """Return a context that puts the random state of all devices back at its end."""
    return torch.random.fork_rng(devices=range(torch.cuda.device_count()))


def digest_of(value: Any) -> str:
    """Return a text that is another one for other plain data."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _digest(mask: Tensor) -> str:
    return hashlib.sha256(mask.cpu().numpy().tobytes()).hexdigest()
