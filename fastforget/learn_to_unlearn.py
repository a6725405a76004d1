"""Learning to Unlearn: forget samples by feedback from what remains and from membership models."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from os import PathLike
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from fastforget.errors import ForgettingError
from fastforget.fingerprint import fingerprint
from fastforget.harmonization import Project, Scope, harmonize
from fastforget.membership import MembershipModel
from fastforget.model import check_eval, eager, ready_recurrent, reproducible, watched_parameters
from fastforget.receipt import Edit, Receipt, write
from fastforget.unlearning.batches import Batch, Forgotten, Stream, check_disjoint
from fastforget.unlearning.checkpoint import Checkpoint, tensors_of
from fastforget.unlearning.feedback import Support, Target, forgetting, remembering
from fastforget.unlearning.floor import Floor
from fastforget.unlearning.sources import Drawn, source
from fastforget.unlearning.steps import NormalizedDescent

__all__ = ["learn_to_unlearn"]

Optimizer = Callable[[list[Tensor]], torch.optim.Optimizer]
_COUNTS = ("steps", "queries", "every", "seed")
_MAYBE_NONE = ("seed", "tune", "weight")
_OF_DATA = ("support", "target")
_OF_MODEL = ("params", "norm")


def learn_to_unlearn(
    model: nn.Module,
    forget: Iterable[tuple[Any, Tensor]],
    remain: Iterable[tuple[Any, Tensor]],
    *,
    unseen: Iterable[tuple[Any, Tensor]] | None = None,
    attacks: Sequence[MembershipModel] = (),
    steps: int = 60,
    lr: float = 2e-3,
    trial: float = 3e-3,
    queries: int = 1,
    support: Support | None = None,
    tune: float = 1.0,
    target: Target | None = None,
    weight: float = 1.0,
    order: Literal[1, 2] = 1,
    meta: bool = True,
    project: Project = "forget",
    scope: Scope = "global",
    optimizer: Optimizer | None = None,
    parameters: Iterable[str] | None = None,
    floor: tuple[Any, Tensor, float] | None = None,
    callback: Callable[[int, dict[str, float]], object] | None = None,
    checkpoint: str | PathLike[str] | None = None,
    every: int = 50,
    seed: int = 0,
    progress: bool = False,
    undo: bool = True,
) -> Receipt:
    r"""Make a classifier forget some samples, in place, with all or a part of the remaining data.

    Every step follows the sum of two gradients:

    * g_r, remembering: what forgetting a batch of ``forget`` takes, together with what a trial step of it does to
      batches of ``remain``, see `fastforget.unlearning.feedback.remembering`;
    * g_f, forgetting: what makes batches of ``forget`` look to a membership model as if the classifier had never been
      trained on them, together with what a trial step of it does to how other membership models see them, see
      `fastforget.unlearning.feedback.forgetting`. Without ``attacks`` there is none.

    ::

        g = grad [ L_tune(theta) + 1/N sum_i L_test,i(theta - trial grad L_tune(theta)) ]          each of the two
        theta <- optimizer(theta, harmonize(weight g_f, g_r))

    What is to become of a sample is read off one that the model was not trained on, its twin: among the samples of a
    class, a model is surest of those that it would have known anyway, so that the one that it is surest of is matched
    with the unseen one that it is surest of, and so on, see `fastforget.unlearning.counterfactual.twins_of`. Most then
    stay as they are, and those that were known by heart become as uncertain, or wrong, as unseen ones. A class of which
    nothing remains is to be excluded, for which no unseen samples are needed.

    The work is done on a copy in eval mode: batch norms keep their statistics, dropout is off. The model changes in one
    short moment in the end. The random state is put back.

    Source: Huang, Foo, Liu, "Learning to Unlearn for Robust Machine Unlearning", ECCV 2024 (the two feedbacks, the
    meta-optimisation and the harmonisation). The twins, the losses of support and query sets, the membership models'
    inputs, which gradient yields, and all defaults are ours.

    Args:
        model: A classifier in eval mode; logits [N, C] from its forward.
        forget: Batches (inputs, targets) to forget, on the model's device, for instance a DataLoader; gone through as
            often as needed. With twins, they are kept in memory, and those that have farther to go are drawn more
            often, as many at a time as in the first batch.
        remain: Batches of the remaining data, or of a part of it, none of whose samples is to be forgotten. A class to
            forget of which there is no sample here is to be excluded altogether.
        unseen: Batches of data of the same kind that the model was not trained on; some of every class that samples to
            forget are of and that remains.
        attacks: Membership models of this classifier, see `fastforget.membership.train_membership_model`. A different
            one each time makes the support set, drawn at random, and all others the query sets.
        steps: How many updates.
        lr: Length of the first step of the default optimiser as a share of the norm of the parameters, see
            `fastforget.unlearning.steps.NormalizedDescent`.
        trial: Length of the trial step.
        queries: How many batches of ``remain`` each trial step is tested on.
        support: What the trial step does to the samples to forget: "counterfactual" teaches them what their twins say,
            "random" wrong labels, "uniform" all classes alike, "ascent" goes up their loss. By default the first if
            ``unseen`` is given or no class to forget remains, the second otherwise.
        tune: Weight of this in g_r. With 0 the trial step is still taken, but what is forgotten is said by the attacks
            alone.
        target: What the attacks are to say of the samples to forget: "counterfactual", what they say of their twins,
            "unseen", what they say of unseen ones on average, or "zero", that they are strangers for sure. By default
            the first where ``support`` may be that, the second otherwise.
        weight: Of the forgetting gradient.
        order: 2 differentiates through the trial step, 1 takes the gradients after it for those before it.
        meta: False leaves out the trial step: query sets are seen by the parameters as they are.
        project: Which gradient yields in a conflict, see `harmonize`; "none" for the plain sum.
        scope: Whether conflicts are looked for over all parameters or in each, see `harmonize`.
        optimizer: Called with the list of parameters, returns an optimiser of torch.optim to be used instead.
        parameters: Names of the parameters that may move; all by default.
        floor: ``(inputs, targets, accuracy)``: validation samples, and the accuracy in [0, 1] on them below which no
            step may fall; the step before such a one is the last.
        callback: Called after each step with its number, from 1, and the losses; a true result ends the work.
        checkpoint: A file to keep the work in. If it is there, it is gone on from, to the same bits as without an
            interruption if the loaders give the same batches again; when the model has changed it is removed.
        every: After how many steps the checkpoint is written.
        seed: Of which samples are drawn, the wrong labels, the choice of attacks, and loaders that shuffle without a
            generator of their own.
        progress: Whether to show a bar, where standard error is a terminal; needs tqdm.
        undo: Keep the old values in the receipt, so that it can be reverted.

    Returns:
        The receipt. Its ``evidence`` has the number of steps, and the losses of the first and of the last one.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument has a wrong value: no data, samples both to forget and to remain, targets that are no
            classes, twins that are asked for and not to be found, a loss that does not stay finite, a checkpoint of
            other work.
        NotImplementedError: The model is on a device without kernels.
        ForgettingError: The first step already falls below the floor.

    After any error the model is what it was before.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Linear(4, 3).eval()
        >>> batches = [(torch.randn(8, 4), torch.arange(8) % 3) for _ in range(4)]
        >>> receipt = learn_to_unlearn(model, batches[:1], batches[1:], steps=3)
        >>> receipt.evidence["steps"]
        3.0
        >>> receipt.revert(model)
    """
    started = time.perf_counter()
    model = eager(model)
    settings = _Settings(steps, lr, trial, queries, support, tune, target, weight, order, meta, project, scope, seed)
    _check({**vars(settings), "every": every}, attacks, model)
    if checkpoint is not None and not Path(checkpoint).absolute().parent.is_dir():
        raise ValueError(f"`checkpoint` must be in a folder that is there, got `{checkpoint}`")
    watched = watched_parameters(model, None if parameters is None else list(parameters))
    check_eval(model)
    check_disjoint(forget, remain)
    before = fingerprint(model)
    with reproducible(model, seed):
        work = _Work(model, watched, settings, attacks, optimizer, (forget, remain, unseen), floor)
        if checkpoint is not None:
            work.resume(checkpoint, before)
        for number in _bar(range(work.step + 1, steps + 1), show=progress):
            losses = work.update()
            if not work.floor.holds():
                break
            work.taken(number, losses)
            if checkpoint is not None and number % every == 0:
                work.save(checkpoint, before)
            if callback is not None and callback(number, dict(losses)):
                break
    if not work.step:
        raise ForgettingError(
            "the first step falls below the floor already: use a smaller `lr`; the model is unchanged"
        )
    edits = work.edits(watched)
    write(model, edits, old=False)
    receipt = Receipt(
        classes=(),
        rule="learn_to_unlearn",
        settings={**work.settings.record(), "attacks": len(attacks)},
        alpha=1.0,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        before=before,
        after=fingerprint(model),
        total=sum(parameter.numel() for parameter in model.parameters()),
        seconds={"total": time.perf_counter() - started},
        evidence=work.evidence | {"steps": float(work.step)},
        edits=edits,
    )
    if checkpoint is not None:
        Path(checkpoint).unlink(missing_ok=True)
    return receipt if undo else receipt.without_undo()


@dataclass(frozen=True)
class _Settings:
    """Arguments of `learn_to_unlearn` that are plain values."""

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
    seed: int

    def record(self) -> dict[str, float | str]:
        """Return them for a file."""
        return vars(self) | {"meta": int(self.meta), "support": str(self.support), "target": str(self.target)}


class _Work:
    """A copy of a model that is moved, what moves it, and how far it got.

    Attributes:
        settings: What was asked for, settled.
        step: How many steps were taken.
        evidence: Losses of the first and the last one.
        floor: What each step must hold.
    """

    def __init__(
        self,
        model: nn.Module,
        watched: dict[str, Tensor],
        settings: _Settings,
        attacks: Sequence[MembershipModel],
        optimizer: Optimizer | None,
        data: tuple[Iterable[tuple[Any, Tensor]], Iterable[tuple[Any, Tensor]], Iterable[tuple[Any, Tensor]] | None],
        floor: tuple[Any, Tensor, float] | None,
    ) -> None:
        self._model, self._attacks = copy.deepcopy(model), list(attacks)
        ready_recurrent(self._model)
        parameters = dict(self._model.named_parameters())
        self._moving = {name: parameters[name].requires_grad_() for name in watched}
        leaves = list(self._moving.values())
        standard = NormalizedDescent(leaves, settings.lr, settings.steps)
        self._optimizer = standard if optimizer is None else optimizer(leaves)
        if not isinstance(self._optimizer, torch.optim.Optimizer):
            raise TypeError(f"`optimizer` must return a torch.optim.Optimizer, got {type(self._optimizer).__name__}")
        self.floor = Floor(self._model, self._moving, floor)
        self._generator = torch.Generator().manual_seed(settings.seed)
        forget, remain, unseen = data
        self._remain = Stream(self._model, remain, "remain")
        asked = {settings.support, settings.target}
        goals = True if "counterfactual" in asked else None if None in asked else False
        self._forget = source(self._model, forget, self._remain, unseen, goals=goals, seed=settings.seed)
        known = isinstance(self._forget, Drawn)
        self._support: Support = settings.support or ("counterfactual" if known else "random")
        self._target: Target = settings.target or ("counterfactual" if known else "unseen")
        self.settings = replace(settings, support=self._support, target=self._target)
        self.step, self.evidence = 0, dict[str, float]()

    def update(self) -> dict[str, float]:
        """Take a step; return the losses that it was to lower."""
        given = self.settings
        length = given.trial if given.meta else 0.0
        batches, queries = self._draw()
        kept = remembering(
            self._model,
            self._moving,
            batches[0],
            queries,
            support=self._support,
            step=length,
            order=given.order,
            weight=given.tune,
            generator=self._generator,
        )
        gradient, found = kept.gradient, {"remember_tune": kept.tune, "remember_test": kept.test}
        if self._attacks:
            drawn = torch.randperm(len(self._attacks), generator=self._generator, device="cpu").tolist()
            attacks = [self._attacks[place] for place in drawn]
            gone = forgetting(
                self._model, self._moving, batches, attacks, target=self._target, step=length, order=given.order
            )
            found |= {"forget_tune": gone.tune, "forget_test": gone.test}
            weighted = {name: given.weight * value for name, value in gone.gradient.items()}
            gradient = harmonize(weighted, gradient, project=given.project, scope=given.scope)
        losses = dict(zip(found, torch.stack(list(found.values())).tolist(), strict=True))
        if not all(map(math.isfinite, losses.values())):
            raise ValueError(f"the losses must stay finite, got {losses} in step {self.step + 1}: use a smaller `lr`")
        for name, value in self._moving.items():
            value.grad = gradient[name]
        self._optimizer.step()
        return losses

    def _draw(self) -> tuple[list[Forgotten], list[Batch]]:
        """Return the batches of a step."""
        return self._forget.several(2 if self._attacks else 1), self._remain.several(self.settings.queries)

    def taken(self, number: int, losses: dict[str, float]) -> None:
        """Note that a step stands."""
        self.step = number
        first = {} if self.evidence else {f"{name}_first": value for name, value in losses.items()}
        self.evidence |= first | {f"{name}_last": value for name, value in losses.items()}

    def save(self, path: str | PathLike[str], before: str) -> None:
        """Write a checkpoint of the work on the model with this fingerprint."""
        tensors = tensors_of(self._moving, self._optimizer, self._generator)
        Checkpoint(before, self._identity(), self.step, self.evidence, tensors).save(path)

    def resume(self, path: str | PathLike[str], before: str) -> None:
        """Go on from a checkpoint, if there is one."""
        if not Path(path).exists():
            return
        found = Checkpoint.load(path, before, self._identity(), self.settings.steps)
        found.restore(self._moving, self._optimizer, self._generator)
        self.floor.moved()
        for _ in range(found.step):  # in the order of the steps: loaders that shuffle share one random state
            self._draw()
        self.step, self.evidence = found.step, found.evidence

    def edits(self, old: dict[str, Tensor]) -> dict[str, Edit]:
        """Return the parameters that differ from the old ones, whole."""
        found = {}
        for name, value in old.items():
            before, after = (tensor.detach().reshape(-1).clone() for tensor in (value, self._moving[name]))
            if not bool(after.isfinite().all()):
                raise ValueError(f"parameter `{name}` must stay finite: use a smaller `lr`")
            if not torch.equal(before, after):
                found[name] = Edit(tuple(value.shape), None, before, after)
        return found

    def _identity(self) -> dict[str, float | str]:
        """What a checkpoint must agree in; with an optimiser that does not depend on it, one may ask for more steps."""
        mine = self.settings.record()
        if not isinstance(self._optimizer, NormalizedDescent):
            del mine["steps"]
        groups = [{k: v for k, v in group.items() if k not in _OF_MODEL} for group in self._optimizer.param_groups]
        return {
            **mine,
            "attacks": " ".join(fingerprint(attack) for attack in self._attacks),
            "optimizer": f"{type(self._optimizer).__name__} {groups}",
            "parameters": " ".join(self._moving),
            "floor": self.floor.accuracy,
        }


def _check(settings: dict[str, Any], attacks: Sequence[MembershipModel], model: nn.Module) -> None:
    choices = {"support": get_args(Support), "project": get_args(Project), "scope": get_args(Scope)}
    choices |= {"target": get_args(Target), "order": (1, 2)}
    for name, value in settings.items():
        if name == "meta":
            if not isinstance(value, bool):
                raise TypeError(f"`meta` must be a bool, got {type(value).__name__}")
        elif name in choices:
            if value not in choices[name] and not (value is None and name in _OF_DATA):
                raise ValueError(f"`{name}` must be one of {list(choices[name])}, got {value!r}")
        else:
            kinds = (int,) if name in _COUNTS else (int, float)
            if isinstance(value, bool) or not isinstance(value, kinds):
                raise TypeError(f"`{name}` must be {'an integer' if name in _COUNTS else 'a number'}, got {value!r}")
            if not value < math.inf or value < 0 or (value == 0 and name not in _MAYBE_NONE):
                raise ValueError(f"`{name}` must be {'at least 0' if name in _MAYBE_NONE else 'positive'}, got {value}")
    _check_attacks(attacks, model)


def _check_attacks(attacks: Sequence[MembershipModel], model: nn.Module) -> None:
    for attack in attacks:
        if not isinstance(attack, MembershipModel):
            raise TypeError(f"`attacks` must be membership models, got {type(attack).__name__}")
        if not 0 <= attack.unseen <= 1:
            raise ValueError(f"`attacks` must be trained, got one that says {attack.unseen} of unseen samples")
    device = next((parameter.device for parameter in model.parameters()), None)
    if any(attack.mean.device != device for attack in attacks):
        raise ValueError(f"`attacks` must be on the model's device, {device}")


def _bar(numbers: range, *, show: bool) -> Iterable[int]:
    if not show:
        return numbers
    from tqdm import tqdm  # noqa: PLC0415 (not every installation has it)

    shown: Iterable[int] = tqdm(numbers, desc="unlearning", disable=None)
    return shown
