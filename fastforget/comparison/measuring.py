"""One seed of a comparison: its networks and samples, and what is measured of each method on them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from torch import nn

from fastforget.auditing.cost import Cost, measure_cost
from fastforget.auditing.run import audit
from fastforget.classifier.modes import reproducible
from fastforget.comparison.checkpoints import Network
from fastforget.comparison.functions import Function
from fastforget.comparison.measures import values_of
from fastforget.comparison.methods import Method
from fastforget.comparison.networks import Networks, digest_of
from fastforget.comparison.plan import Plan
from fastforget.comparison.rows import Row
from fastforget.comparison.samples import Samples
from fastforget.edits.receipt import Receipt
from fastforget.files.versions import current_versions

__all__ = ["SeedStudy", "Task"]


@dataclass(frozen=True, eq=False)
class Task:
    """A row that is to be measured: of a network as it is, or of what a method makes of the original.

    Attributes:
        name: What tables call it.
        subject: The network as it is, or the method.
        key: What tells the row from others.
    """

    name: str
    subject: Network | Method
    key: str


class SeedStudy:
    """One seed of a comparison.

    Args:
        plan: The comparison.
        networks: Where its networks come from.
        seed: The seed.
    """

    def __init__(self, plan: Plan, networks: Networks, seed: int) -> None:
        self._plan, self._seed = plan, seed
        mask = plan.selection.mask(plan.data.train.targets, seed)
        self._mask = mask
        self._original = networks.original(seed)
        self._retrained = [networks.retrained(seed, place, ~mask) for place in range(plan.oracles)]
        self._circumstances = {
            "seed": seed,
            "data": plan.data.digests,
            "forget": digest_of(mask.nonzero().squeeze(1).tolist()),
            "original": self._original.fingerprint,
            "retrained": [network.fingerprint for network in self._retrained],
            "audit": [plan.relearning_steps, plan.samples],
        }

    def tasks(self) -> Iterator[Task]:
        """Yield the rows of this seed: original, references, methods."""
        subjects: list[Network | Method] = [self._original, *self._retrained, *self._plan.methods]
        for name, subject in zip(self._plan.rows, subjects, strict=True):
            function = subject.function if isinstance(subject, Method) else None
            named = name if function is None else [function.name, dict(function.settings)]
            yield Task(name, subject, self._key(named))

    def _key(self, what: Any) -> str:
        return digest_of({"of": what, **self._circumstances})

    def measure(self, task: Task) -> Row:
        """Do what a task says.

        Args:
            task: The task.

        Returns:
            The row.

        Raises:
            TypeError: The method returned something else than a receipt or nothing.
            Exception: Whatever the method raises.
        """
        function: Function | None = None
        cost: Cost | None
        if isinstance(task.subject, Method):
            function = task.subject.function
            model, cost = self._edited(function)
        else:
            model, cost = task.subject.model, task.subject.cost
        return Row(
            key=task.key,
            seed=self._seed,
            method=task.name,
            function="" if function is None else function.name,
            settings={} if function is None else dict(function.settings),
            measures=self._measures(model, cost),
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            versions=current_versions(),
        )

    def _edited(self, function: Function) -> tuple[nn.Module, Cost]:
        model = copy.deepcopy(self._original.model)
        device = next(model.parameters()).device
        given = self._plan.given(self._seed)
        forget, remain = self._parts()  # of its own, should it change them
        with reproducible(model, self._seed), measure_cost(device) as cost:
            result = function(model, forget.pair, remain.pair, given=given)
        if result is not None and not isinstance(result, Receipt):
            raise TypeError(
                f"a method must edit the network in place and return a receipt or nothing, got {type(result).__name__}"
            )
        return model.eval(), cost

    def _parts(self) -> tuple[Samples, Samples]:
        """Return copies of the samples to forget and of those that remain."""
        train = self._plan.data.train
        return train.rows(self._mask), train.rows(~self._mask)

    def _measures(self, model: nn.Module, cost: Cost | None) -> dict[str, float | None]:
        plan = self._plan
        # A reference that is measured itself is no reference model for attacks on it.
        shadows = [network.model for network in self._retrained[1:] if network.model is not model]
        forget, remain = self._parts()
        report = audit(
            model,
            forget.pair,
            remain.first_few(plan.samples).pair,
            plan.data.test.pair,
            original=self._original.model,
            retrained=self._retrained[0].model if self._retrained else None,
            shadows=shadows,
            codes=plan.data.codes,
            relearning_steps=plan.relearning_steps,
            cost=cost,
        )
        return values_of(report)
