"""The work of `learn_to_unlearn`: a copy of the model that is moved step by step."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor, nn

from fastforget.classifier.data_forms import Batch
from fastforget.classifier.fingerprint import fingerprint
from fastforget.classifier.kept_values import keep_nothing
from fastforget.classifier.modes import enable_recurrent_backward
from fastforget.classifier.output_layer import OutputLayer
from fastforget.edits.edit import Edit
from fastforget.errors import ForgettingError
from fastforget.functional.harmonization import harmonize
from fastforget.membership.model import MembershipModel
from fastforget.sample_forgetting.checkpoint import Checkpoint, state_tensors
from fastforget.sample_forgetting.excluded import DrawnSamples, ExcludedClasses
from fastforget.sample_forgetting.feedback import Feedback, Support, Target, forget_feedback, remain_feedback
from fastforget.sample_forgetting.floor import AccuracyFloor
from fastforget.sample_forgetting.loaders import EndlessBatches, ForgetBatch, UnlearningData
from fastforget.sample_forgetting.optimizer import NormalizedDescent
from fastforget.sample_forgetting.settings import Settings
from fastforget.sample_forgetting.sources import choose_source

__all__ = ["OptimizerFactory", "Work"]

OptimizerFactory: TypeAlias = Callable[[list[Tensor]], torch.optim.Optimizer]
_OF_MODEL = ("params", "norm")  # entries of an optimiser's groups that depend on the parameters' values


class Work:
    """A copy of a model, what moves it, and how far it got.

    Attributes:
        before: Fingerprint of the model.
        settings: The settings, with a support set and a target chosen.
        floor: The accuracy that each step must hold.
        step: How many steps were taken.
        evidence: Losses of the first and the last one, and what was done to the output rows of excluded classes.
    """

    def __init__(
        self,
        model: nn.Module,
        chosen: Mapping[str, Tensor],
        settings: Settings,
        data: UnlearningData,
        attacks: Sequence[MembershipModel],
        optimizer: OptimizerFactory | None,
        floor: object,
    ) -> None:
        """Copy the model and prepare the data.

        Args:
            model: The eager module, in eval mode.
            chosen: Its parameters that may move, by name.
            settings: The settings.
            data: Batches on the model's device.
            attacks: Membership models of the model.
            optimizer: Makes the optimiser; None for `NormalizedDescent`.
            floor: (inputs, targets, accuracy), or None for no floor.

        Raises:
            TypeError: The optimiser is none, or a batch or the floor has the wrong type.
            ValueError: There is no batch, targets are no classes, goals cannot be had, or the floor is not met.
            ForgettingError: Output rows are to be set, and there are none to set.
        """
        self.before: str = fingerprint(model)
        self._model, self._attacks = copy.deepcopy(model), list(attacks)
        enable_recurrent_backward(self._model)
        keep_nothing(self._model)
        parameters = dict(self._model.named_parameters())
        self._moving = {name: parameters[name].requires_grad_() for name in chosen}
        self._optimizer = _made(optimizer, list(self._moving.values()), settings)
        self.floor: AccuracyFloor = AccuracyFloor(self._model, self._moving, floor)
        self._generator = torch.Generator().manual_seed(settings.seed)
        self._remain = EndlessBatches(self._model, data.remain, "remain")
        self._to_forget = EndlessBatches(self._model, data.forget, "forget")
        self._forget, self._excluded = choose_source(
            self._model, data, self._to_forget, self._remain, goals=settings.goals, seed=settings.seed
        )
        goals = self._forget.has_goals
        self._support: Support = settings.support or ("counterfactual" if goals else "random")
        self._target: Target = settings.target or ("counterfactual" if goals else "unseen")
        self.settings: Settings = replace(settings, support=self._support, target=self._target)
        if settings.output_row:
            self._check_rows()
        self.step: int = 0
        self.evidence: dict[str, float] = {}

    def take_step(self) -> dict[str, float]:
        """Take a step; return the losses that it was to lower.

        Returns:
            The losses by name.

        Raises:
            ValueError: A loss is not finite.
        """
        forget, queries = self._draw()
        remain = self._remain_feedback(forget[0], queries)
        gradient, losses = remain.gradient, {"remember_tune": remain.tune, "remember_test": remain.test}
        if self._attacks:
            attacked = self._forget_feedback(forget)
            gradient = self._harmonized(attacked.gradient, remain.gradient)
            losses |= {"forget_tune": attacked.tune, "forget_test": attacked.test}
        values = self._finite(losses)
        self._update(gradient)
        return values

    def accept(self, losses: Mapping[str, float]) -> None:
        """Count a step that stands, and keep its losses as evidence."""
        self.step += 1
        first = {} if self.evidence else {f"{name}_first": value for name, value in losses.items()}
        self.evidence |= first | {f"{name}_last": value for name, value in losses.items()}

    @property
    def excluded(self) -> tuple[int, ...]:
        """The classes of which nothing remains, in order."""
        return self._find_excluded().classes

    def set_rows(self) -> str:
        """Give excluded classes the output rows of classes never seen, after the last step.

        What was done is in the evidence; nothing is said where no class is excluded or rows are to be left alone. The
        rows are taken back if the accuracy falls below the floor with them.

        Returns:
            Why rows were not set that should have been, as words that follow a "because"; empty where they were.

        Raises:
            ForgettingError: They were asked for.
        """
        if self.settings.output_row is False:
            return ""
        excluded = self._find_excluded()
        if not excluded.classes:
            return ""
        layer = excluded.look_for_layer(self._model, self._moving)
        if isinstance(layer, OutputLayer):
            goal = excluded.set_rows(self._model, layer, self._moving, self.settings.output_depth)
            if self.floor.holds():
                depth = excluded.depth(self._model, layer)
                self.evidence |= {"disconnected": 1.0, "output_depth": depth, "output_depth_goal": goal}
                return ""
        reason = layer if isinstance(layer, str) else "the accuracy would fall below the floor"
        if self.settings.output_row:
            raise ForgettingError(_no_rows(reason))
        self.evidence |= {"disconnected": 0.0}
        return reason

    def edits(self, old: Mapping[str, Tensor]) -> dict[str, Edit]:
        """Return the parameters that changed, whole.

        Args:
            old: The values before, by name.

        Returns:
            Their edits by name.

        Raises:
            ValueError: A parameter is not finite.
        """
        edits = {}
        for name, value in old.items():
            before, after = (tensor.detach().reshape(-1).clone() for tensor in (value, self._moving[name]))
            if not bool(after.isfinite().all()):
                raise ValueError(f"parameter `{name}` must stay finite: use a smaller `lr`")
            if not torch.equal(before, after):
                edits[name] = Edit(tuple(value.shape), None, before, after)
        return edits

    def save(self, path: str | PathLike[str]) -> None:
        """Write a checkpoint."""
        tensors = state_tensors(self._moving, self._optimizer, self._generator)
        Checkpoint(self.before, self._identity(), self.step, self.evidence, tensors).save(path)

    def resume(self, path: str | PathLike[str]) -> None:
        """Continue from a checkpoint if there is one.

        Args:
            path: The file.

        Raises:
            ValueError: It is unusable, or of other work.
        """
        if not Path(path).exists():
            return
        checkpoint = Checkpoint.load(path, self.before, self._identity(), self.settings.steps)
        checkpoint.restore(self._moving, self._optimizer, self._generator)
        self.floor.keep()
        for _ in range(checkpoint.step):  # in the order of the steps: loaders that shuffle share one random state
            self._draw()
        self.step, self.evidence = checkpoint.step, checkpoint.evidence

    def _check_rows(self) -> None:
        """Raise ForgettingError where there are no output rows to set."""
        excluded = self._find_excluded()
        if not excluded.classes:
            raise ForgettingError(_no_rows("samples of every class to forget remain"))
        layer = excluded.look_for_layer(self._model, self._moving)
        if isinstance(layer, str):
            raise ForgettingError(_no_rows(layer))

    def _find_excluded(self) -> ExcludedClasses:
        """Return the classes of which nothing remains; where nobody looked yet, go through the batches for them."""
        if self._excluded is None:
            others = DrawnSamples.draw(self._remain.one_pass(), self.settings.seed)
            self._excluded = ExcludedClasses.find(self._to_forget.one_pass(), others, self.settings.seed)
        return self._excluded

    def _draw(self) -> tuple[list[ForgetBatch], list[Batch]]:
        """Return the batches of a step."""
        return self._forget.take(2 if self._attacks else 1), self._remain.take(self.settings.queries)

    def _remain_feedback(self, forget: ForgetBatch, queries: Sequence[Batch]) -> Feedback:
        return remain_feedback(
            self._model,
            self._moving,
            forget,
            queries,
            support=self._support,
            step=self.settings.trial_step,
            order=self.settings.order,
            weight=self.settings.tune,
            generator=self._generator,
        )

    def _forget_feedback(self, forget: Sequence[ForgetBatch]) -> Feedback:
        order = torch.randperm(len(self._attacks), generator=self._generator, device="cpu").tolist()
        return forget_feedback(
            self._model,
            self._moving,
            forget,
            [self._attacks[place] for place in order],
            target=self._target,
            step=self.settings.trial_step,
            order=self.settings.order,
        )

    def _harmonized(self, forget: Mapping[str, Tensor], remain: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the sum of both gradients without their conflicts, that of the attacks weighted."""
        weighted = {name: self.settings.weight * value for name, value in forget.items()}
        return harmonize(weighted, remain, project=self.settings.project, scope=self.settings.scope)

    def _finite(self, losses: Mapping[str, Tensor]) -> dict[str, float]:
        """Return losses as numbers, after a single wait for their device."""
        values = dict(zip(losses, torch.stack(list(losses.values())).tolist(), strict=True))
        if not all(map(math.isfinite, values.values())):
            raise ValueError(f"the losses must stay finite, got {values} in step {self.step + 1}: use a smaller `lr`")
        return values

    def _update(self, gradient: Mapping[str, Tensor]) -> None:
        for name, value in self._moving.items():
            value.grad = gradient[name]
        self._optimizer.step()

    def _identity(self) -> dict[str, float | str]:
        """Return what a checkpoint must agree in.

        An optimiser of the caller does not depend on the number of steps: then more may be asked for.
        """
        record = self.settings.record()
        if not isinstance(self._optimizer, NormalizedDescent):
            del record["steps"]
        groups = [{k: v for k, v in group.items() if k not in _OF_MODEL} for group in self._optimizer.param_groups]
        return {
            **record,
            "attacks": " ".join(fingerprint(attack) for attack in self._attacks),
            "optimizer": f"{type(self._optimizer).__name__} {groups}",
            "parameters": " ".join(self._moving),
            "floor": self.floor.accuracy,
        }


def _no_rows(reason: str) -> str:
    return f"`output_row` asks for output rows that cannot be set, because {reason}; the model is unchanged"


def _made(make: OptimizerFactory | None, leaves: list[Tensor], settings: Settings) -> torch.optim.Optimizer:
    """Return the caller's optimiser, or the default one."""
    if make is None:
        return NormalizedDescent(leaves, settings.lr, settings.steps)
    optimizer = make(leaves)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"`optimizer` must return a torch.optim.Optimizer, got {type(optimizer).__name__}")
    return optimizer
