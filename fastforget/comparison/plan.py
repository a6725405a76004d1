"""What a comparison is to do: everything that the configuration names, found and checked before any training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastforget.baselines.editing import check_settings
from fastforget.classifier.compilation import eager
from fastforget.classifier.fitting import checked_logits
from fastforget.codes.mnemonic_codes import MnemonicCodes
from fastforget.comparison.checkpoints import load_into
from fastforget.comparison.functions import Function, find_function
from fastforget.comparison.measures import check_measures
from fastforget.comparison.methods import REFERENCES, Method, read_methods
from fastforget.comparison.recipe import train
from fastforget.comparison.samples import Samples, read_samples
from fastforget.comparison.selection import Selection

__all__ = ["Data", "Plan", "read_plan"]


@dataclass(frozen=True, eq=False)
class Data:
    """The samples of a comparison, on the device of its networks.

    Attributes:
        train: What the originals are trained on.
        test: Those that are measured, of data that no network is trained on.
        unseen: More such data, for methods that use it.
        codes: Mnemonic codes of the originals.
    """

    train: Samples
    test: Samples
    unseen: Samples | None
    codes: MnemonicCodes | None

    @cached_property
    def digests(self) -> dict[str, str]:
        """What tells each part from others."""
        parts = {"train": self.train, "test": self.test, "unseen": self.unseen}
        found = {name: "" if part is None else part.digest() for name, part in parts.items()}
        return found | {"codes": "" if self.codes is None else self.codes.fingerprint()}


@dataclass(frozen=True, eq=False)
class Plan:
    """What a comparison is to do.

    Attributes:
        seeds: One original for each.
        oracles: How many references are trained again for each seed.
        make: Makes a network.
        checkpoint: The file of the original, with {seed} for the seed; None to train it.
        retrained: The files of the references, likewise; none to train them.
        training: Trains a network: called with it and the samples.
        data: The samples.
        selection: What is forgotten.
        methods: The methods.
        relearning_steps: As for `fastforget.audit`.
        samples: Of the remaining data at most so many are measured.
        measures: Those that tables show.
        folder: What files are relative to.
    """

    seeds: tuple[int, ...]
    oracles: int
    make: Function
    checkpoint: str | None
    retrained: tuple[str, ...]
    training: Function | None
    data: Data
    selection: Selection
    methods: tuple[Method, ...]
    relearning_steps: int
    samples: int | None
    measures: tuple[str, ...]
    folder: Path

    @property
    def rows(self) -> tuple[str, ...]:
        """The names of the rows of each seed: original, references, methods."""
        original, retrained = REFERENCES
        references = [f"{retrained} {place + 1}" if place else retrained for place in range(self.oracles)]
        return (original, *references, *(method.name for method in self.methods))

    def build(self, seed: int) -> nn.Module:
        """Make a network in the random state of a seed, which goes on from there.

        Args:
            seed: The seed.

        Returns:
            The eager module.

        Raises:
            RuntimeError: The function failed.
            TypeError: It returned something else.
        """
        torch.manual_seed(seed)
        try:
            module = self.make(given={"seed": seed, "unseen": None, "codes": None})
        except Exception as error:
            raise RuntimeError(f"`model.make` {self.make.name} failed: {type(error).__name__}: {error}") from error
        if not isinstance(module, nn.Module):
            raise TypeError(f"`model.make` must return a torch.nn.Module, got {type(module).__name__}")
        return eager(module)

    def given(self, seed: int) -> dict[str, Any]:
        """Return what functions get that take it: the seed, unseen samples, codes."""
        unseen = self.data.unseen
        copied = None if unseen is None else unseen.rows(torch.arange(len(unseen))).pair
        return {"seed": seed, "unseen": copied, "codes": self.data.codes}


def read_plan(config: Mapping[str, Any], folder: Path) -> Plan:
    """Find what a configuration names, and check that it fits together.

    Args:
        config: The configuration, of `fastforget.comparison.config.read_config`.
        folder: What files are relative to.

    Returns:
        The plan.

    Raises:
        ImportError: A function cannot be found.
        OSError: A file cannot be found.
        RuntimeError: A function failed.
        TypeError: Something has the wrong type.
        ValueError: Something does not fit.
    """
    audit = config.get("audit", {})
    sources = config["data"]
    parts = {name: read_samples(sources[name], f"data.{name}", folder) for name in _PARTS if name in sources}
    parts["test"] = parts["test"].first_few(audit.get("samples"))
    selection = Selection.read(config["forget"], parts["train"], parts["test"])
    model = config["model"]
    make = Function.of(find_function(model["make"], "model.make", folder), "model.make", {}, 0)
    plan = Plan(
        seeds=tuple(config["seeds"]),
        oracles=len(model["retrained"]) if "retrained" in model else config.get("oracles", 1),
        make=make,
        checkpoint=model.get("checkpoint"),
        retrained=tuple(model.get("retrained", ())),
        training=_training(config, folder),
        data=Data(parts["train"], parts["test"], parts.get("unseen"), _codes(sources, folder)),
        selection=selection,
        methods=read_methods(
            config["methods"], folder, whole_classes=bool(selection.classes), has_unseen="unseen" in parts
        ),
        relearning_steps=audit.get("relearning_steps", 20),
        samples=audit.get("samples"),
        measures=check_measures(config.get("measures")),
        folder=folder,
    )
    _check_references(plan, config)
    return _checked(plan)


_PARTS = ("train", "test", "unseen")


def _training(config: Mapping[str, Any], folder: Path) -> Function | None:
    if "training" not in config:
        return None
    table = dict(config["training"])
    function = find_function(table.pop("function"), "training.function", folder) if "function" in table else train
    recipe = Function.of(function, "training", table, 2)
    if function is train:
        try:
            check_settings(dict(recipe.settings))
        except (TypeError, ValueError) as error:
            raise type(error)(f"`training`: {error}") from error
    return recipe


def _codes(sources: Mapping[str, Any], folder: Path) -> MnemonicCodes | None:
    if "codes" not in sources:
        return None
    path = folder / sources["codes"]
    if not path.is_file():
        raise FileNotFoundError(f"`data.codes` must be a file that exists, got {path}")
    return MnemonicCodes.load(path)


def _check_references(plan: Plan, config: Mapping[str, Any]) -> None:
    """Check that every network can be had, and that files of them exist."""
    if "oracles" in config and "retrained" in config["model"]:
        raise ValueError("`oracles` must be left out where `model.retrained` has the files of the references")
    if plan.training is None and plan.checkpoint is None:
        raise ValueError("the configuration must have `training`, or the file of the original in `model.checkpoint`")
    if plan.training is None and plan.oracles and not plan.retrained:
        raise ValueError(
            "the configuration must have `training`, files of references in `model.retrained`, or `oracles = 0`, "
            "for a comparison without retrained references"
        )
    for key, name in [("checkpoint", plan.checkpoint), *(("retrained", name) for name in plan.retrained)]:
        for seed in plan.seeds if name is not None else ():
            path = plan.folder / str(name).format(seed=seed)
            if not path.is_file():
                raise FileNotFoundError(f"`model.{key}` must be a file that exists, got {path}")
            with torch.random.fork_rng(devices=[]):
                load_into(plan.build(seed), path, f"model.{key}")


def _checked(plan: Plan) -> Plan:
    """Return the plan with its samples where the networks are, which are seen to take them."""
    with torch.random.fork_rng(devices=[]):
        model = plan.build(plan.seeds[0]).eval()
    like = next(model.parameters(), None)
    if like is None:
        raise ValueError("`model.make` must return a module with parameters, got none")
    parts = {name: getattr(plan.data, name) for name in _PARTS}
    moved = {name: part.where(like) for name, part in parts.items() if part is not None}
    for name, part in moved.items():
        _check_fits(model, part, f"data.{name}")
    return replace(plan, data=replace(plan.data, **moved))


def _check_fits(model: nn.Module, part: Samples, key: str) -> None:
    few = part.rows(torch.arange(min(2, len(part))))
    logits: Tensor = checked_logits(model, few.inputs, key)
    if logits.dim() != 2:
        raise ValueError(f"`model.make` must return a classifier with logits [N, C], got shape {tuple(logits.shape)}")
    classes = logits.shape[1]
    if part.classes[0] < 0 or part.classes[-1] >= classes:
        raise ValueError(f"targets of `{key}` must be in [0, {classes}), got {part.classes[0]} to {part.classes[-1]}")
