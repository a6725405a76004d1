"""The networks of a comparison: originals, and references trained again; trained once, kept on disk, and reused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastforget.comparison.checkpoints import Network, kept_network, load_into, random_state
from fastforget.comparison.plan import Plan

__all__ = ["Networks", "digest_of"]

_APART = 1000  # seeds of references of the same original are so far apart


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
        digests = self._plan.data.digests
        named = {
            "make": self._plan.make.name,
            "training": [recipe.name, dict(recipe.settings)],
            "seed": own_seed,
            "samples": {name: digests[name] for name in ("train", *sorted(recipe.takes - {"seed"}))},
            "keep": _digest(keep),
        }
        path = self._folder / f"{kind}-of-seed-{seed}-{digest_of(named)[:12]}.safetensors"
        samples = self._plan.data.train.rows(keep).pair

        def train(model: nn.Module) -> None:
            self._tell(f"seed {seed}: training {kind.partition('-')[0]}")
            result = recipe(model, samples, given=self._plan.given(own_seed))
            if isinstance(result, nn.Module) and result is not model:
                raise TypeError("`training.function` must train the network in place, but returned another one")

        return kept_network(path, lambda: self._plan.build(own_seed), train)


def digest_of(value: Any) -> str:
    """Return a text that is another one for other plain data."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _digest(mask: Tensor) -> str:
    return hashlib.sha256(mask.cpu().numpy().tobytes()).hexdigest()
