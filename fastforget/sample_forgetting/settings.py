"""The arguments of `learn_to_unlearn` that are checked before any work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Literal, get_args

from torch import nn

from fastforget.classifier.arguments import (
    NOT_NEGATIVE,
    check_choice,
    check_integer,
    check_number,
    check_optional_number,
)
from fastforget.functional.harmonization import Project, Scope
from fastforget.membership.model import MembershipModel
from fastforget.sample_forgetting.feedback import Support, Target

__all__ = ["Settings", "check_attacks", "check_checkpoint"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The plain values among the arguments of `learn_to_unlearn`, checked; see there for their meaning."""

    steps: int
    lr: float
    trial: float
    queries: int
    support: Support | None
    tune: float
    target: Target | None
    weight: float
    order: Literal[1, 2]
    meta: bool
    project: Project
    scope: Scope
    output_row: bool | None
    output_depth: float | None
    seed: int

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            TypeError: One has the wrong type.
        """
        check_integer("steps", self.steps)
        check_integer("queries", self.queries)
        check_integer("seed", self.seed, least=0)
        check_number("lr", self.lr)
        check_number("trial", self.trial)
        check_number("tune", self.tune, NOT_NEGATIVE)
        check_number("weight", self.weight, NOT_NEGATIVE)
        check_optional_number("output_depth", self.output_depth)
        check_choice("support", self.support, (*get_args(Support), None))
        check_choice("target", self.target, (*get_args(Target), None))
        check_choice("order", self.order, (1, 2))
        check_choice("project", self.project, get_args(Project))
        check_choice("scope", self.scope, get_args(Scope))
        if not isinstance(self.meta, bool):
            raise TypeError(f"`meta` must be a bool, got {type(self.meta).__name__}")
        if self.output_row is not None and not isinstance(self.output_row, bool):
            raise TypeError(f"`output_row` must be a bool or None, got {type(self.output_row).__name__}")

    @property
    def trial_step(self) -> float:
        """The length of the trial step, 0 where there is none."""
        return self.trial if self.meta else 0.0

    @property
    def goals(self) -> bool | None:
        """Whether samples to forget must have goals; None where the data decides."""
        asked = {self.support, self.target}
        return True if "counterfactual" in asked else None if None in asked else False

    def record(self) -> dict[str, float | str]:
        """Return the values as numbers and texts, for a file."""
        texts = {name: str(getattr(self, name)) for name in ("support", "target", "output_row")}
        depth = "None" if self.output_depth is None else self.output_depth
        return {**asdict(self), **texts, "output_depth": depth, "meta": int(self.meta)}


def check_attacks(attacks: Sequence[MembershipModel], model: nn.Module) -> None:
    """Check that membership models can judge a classifier.

    Args:
        attacks: The membership models.
        model: The classifier.

    Raises:
        TypeError: One is something else.
        ValueError: One is not trained, or on another device than the classifier.
    """
    for attack in attacks:
        if not isinstance(attack, MembershipModel):
            raise TypeError(f"`attacks` must be membership models, got {type(attack).__name__}")
        if not 0 <= attack.unseen <= 1:
            raise ValueError(f"`attacks` must be trained, got one that says {attack.unseen} of unseen samples")
    device = next((parameter.device for parameter in model.parameters()), None)
    if any(attack.mean.device != device for attack in attacks):
        raise ValueError(f"`attacks` must be on the model's device, {device}")


def check_checkpoint(path: str | PathLike[str] | None, every: int) -> None:
    """Check where work is kept, and how often.

    Args:
        path: A file; None for nowhere.
        every: After how many steps.

    Raises:
        ValueError: There is no such folder, or ``every`` is not positive.
    """
    check_integer("every", every)
    if path is not None and not Path(path).absolute().parent.is_dir():
        raise ValueError(f"`checkpoint` must be in a folder that is there, got `{path}`")
