"""Forget classes in one shot: one forward and backward of the mnemonic codes, one edit."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fastforget.batch import Inputs, check_finite
from fastforget.batch import batch_size as count_samples
from fastforget.codes import MnemonicCodes
from fastforget.diagonal import FisherDiagonal
from fastforget.errors import ForgettingError
from fastforget.fingerprint import fingerprint
from fastforget.forgetting import code_batch, kept_fisher, output_bias, rules
from fastforget.forgetting.class_by_class import group_sensitivity, natural_in_turn
from fastforget.forgetting.code_batch import CodeBatch, LiveCodes
from fastforget.forgetting.micro_batches import gather_logits
from fastforget.forgetting.output_bias import Biases
from fastforget.forgetting.rules import Step
from fastforget.forgetting.sensitivity import Sensitivity
from fastforget.losses import log_odds
from fastforget.model import check_eval, eager, outside_tables, watched_parameters
from fastforget.receipt import Receipt, write
from fastforget.waiting import Checks, constant, read

__all__ = ["one_shot"]

Floor = tuple[Inputs, Tensor, float]
_BACK_OFF, _BACK_OFFS = 0.8, 40
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def one_shot(
    model: nn.Module,
    mnemonic_codes: MnemonicCodes | Tensor,
    cls: int | Sequence[int],
    *,
    rule: Literal["natural", "paper"] = "natural",
    rho: float = 0.003,
    widen: float = 3.0,
    depth: float = 6.0,
    spill: float = 2.0,
    reach: float = 16.0,
    silence: bool | None = None,
    lambda1: float = 1e-3,
    lambda2: float = 1.0,
    forgotten: int | Sequence[int] = (),
    parameters: Iterable[str] | None = None,
    fisher: FisherDiagonal | None = None,
    update: bool = False,
    floor: Floor | None = None,
    undo: bool = True,
    batch_size: int | None = None,
) -> Receipt:
    r"""Make a classifier forget one or several classes, in place, from their mnemonic codes alone.

    One forward and backward over all codes gives the diagonal Fisher of the forgotten classes, f_CF, and of the
    remaining ones, f_CR. ``rule="natural"`` (default, ours) takes one natural-gradient step up the forgotten codes'
    loss on the share ``rho`` of parameters with the largest f_CF / f_CR, or more where these do not suffice; its length
    comes from forward passes of the codes, see `fastforget.forgetting.rules.natural`. ``rule="paper"`` moves every
    parameter by its ratio, see `fastforget.forgetting.rules.paper`. Both are deterministic and use nothing but the
    codes.

    Source: Yamashita, Yamada, Shibata, "One-shot machine unlearning with mnemonic code", ACML 2024; the natural
    rule deviates in direction, mask and step.

    Args:
        model: A classifier in eval mode that was trained with the codes; logits [N, C] from its forward.
        mnemonic_codes: `MnemonicCodes`, or a tensor [C, \*shape] or [C, M, \*shape], on any device.
        cls: The class to forget, or several.
        rule: "natural" or "paper".
        rho: Natural rule: share of the parameters that moves, (0, 1].
        widen: Natural rule: how many times as many are tried where these end more than a nat short of ``depth``, and
            moved where that takes the codes more than a nat deeper; 1 for never.
        depth: Natural rule: how far beyond the decision boundary the forgotten codes end, nats of log-odds.
        spill: Natural rule: how much of its log-odds a remaining code may lose, nats; the step is shortened until none
            loses more. K classes, after n that were forgotten earlier, may take (sqrt(n + K) - sqrt(n)) times as much.
            With ``fisher=`` but without ``update``, the remaining codes are not run, and nothing is shortened.
        reach: Natural rule: the longest step, in units of the one that would lead to ``depth`` to first order. Beyond
            it the codes no longer tell what a step does to the data.
        silence: Also move the output biases: those of the forgotten classes down until no input is assigned to them,
            those of the others by what the step shifted their logits on the remaining codes, see
            `fastforget.forgetting.output_bias.settle`. By default with the natural rule, if the model has such a
            parameter among those that may move.
        lambda1: Paper's rule: bound on the scale of a tensor's change.
        lambda2: Paper's rule: bound on the largest change in a tensor.
        forgotten: Classes forgotten earlier: the model need not know their codes, and nothing is done to keep them.
            To be given with every request after the first.
        parameters: Names of the parameters that may move. By default all of them, but with the natural rule not the
            tables of embeddings, see `fastforget.model.outside_tables`.
        fisher: Natural rule: the sum over all codes, kept from before,
            ``fisher_diagonal(model, codes.inputs, codes.labels, reduction="sum")``. Then only the codes to forget are
            run, and f_CR is the difference. It belongs to the model as it is, and is outdated by every edit that is not
            reverted.
        update: Bring ``fisher`` up to date after the edit, for the next request: the forgotten codes are taken out of
            the sum, what it says of the others is kept, and they are run forward once for their losses. Without it,
            ``fisher`` is not changed.
        floor: ``(inputs, targets, accuracy)``: some validation samples, and the accuracy in [0, 1] on those of
            remaining classes below which the edit must not fall. The step is shortened until it holds. Like the codes
            they are moved to the model's device.
        undo: Keep the old values in the receipt, so that it can be reverted.
        batch_size: How many codes, or samples of ``floor``, are run at a time, for many classes: what is held is then
            the activations of so many, sums in the size of the parameters, the logits [N, C], and the codes
            themselves, once more where those of some classes are left out. By default all at once. Other than by
            rounding it changes nothing; that may swap parameters of nearly equal ratio in the mask.

    Returns:
        The receipt: what changed, fingerprints, timings, and the values to undo or repeat the edit.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument has a wrong value, for instance codes of the wrong shape or number of classes, a
            class out of range or repeated, all classes at once, a model in train mode, a frozen parameter, a ``fisher``
            of another model or of other codes.
        UnrecognisedCodesError: The model was not trained with these codes.
        NotImplementedError: The model is on a device without kernels.
        ForgettingError: No step forgets the class, or none within the floor.

    After any error the model is what it was before.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3)).eval()
        >>> codes = MnemonicCodes.generate(3, (16,), per_class=1)
        >>> _ = model[1].weight.data.copy_(codes.tensor.squeeze(1))  # knows its codes
        >>> receipt = one_shot(model, codes, 1)
        >>> model(codes.inputs).argmax(1)[1].item() == 1
        False
        >>> receipt.revert(model)
    """
    clock = _Clock()
    with clock.phase("check"):
        model = eager(model)
        settings = _settings(
            rule,
            {"rho": rho, "widen": widen, "depth": depth, "spill": spill, "reach": reach},
            {"lambda1": lambda1, "lambda2": lambda2},
        )
        _check_flags(silence=silence, update=update, fisher=fisher, parameters=parameters)
        _check_batch_size(batch_size)
        watched = watched_parameters(model, None if parameters is None else list(parameters))
        check_eval(model)
        moving = watched if rule == "paper" or parameters is not None else outside_tables(model, watched)
        scope = _Scope(watched, moving, watched if update else moving)
        like = next(iter(watched.values()))
        codes, classes = code_batch.prepare(model, mnemonic_codes, cls, forgotten, like, batch_size)
        if fisher is not None:
            kept_fisher.check(fisher, scope.examined, codes, classes, rule)
    with clock.phase("fingerprint"):
        before = fingerprint(model)
    with clock.phase("check"):
        known = _examine(model, codes, classes, fisher, before, update=update)
        validate = _check_floor(model, floor, known, codes.gone)
    tried = known if fisher is None or update else known.to_forget()
    budget = {**settings, "spill": spill * _share(len(codes.gone), len(classes))}
    step, found = _step(
        clock, model, scope, codes, known, tried, fisher, rule, budget if rule == "natural" else settings
    )
    with clock.phase("step"):
        silenced, biases = _settle(step, tried, classes, silence, natural=rule == "natural", spill=budget["spill"])
    with clock.phase("floor"):
        factor = _back_off(step, biases, tried, validate)
        evidence = _evidence(known, tried, step, silenced, biases.scaled(factor).lowered)
    with clock.phase("write"):
        edits = step.stage.edits()
        write(model, edits, old=False)
    with clock.phase("fingerprint"):
        after = fingerprint(model)
        if update and fisher is not None and found is not None:
            kept_fisher.update(fisher, found, known, step.stage.outputs(known.inputs), after)
    receipt = Receipt(
        classes=classes,
        rule=rule,
        settings=settings,
        alpha=step.alpha * factor,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        before=before,
        after=after,
        total=sum(parameter.numel() for parameter in model.parameters()),
        seconds=clock.seconds(),
        evidence=evidence,
        kept_fisher=fisher is not None,
        edits=edits,
    )
    return receipt if undo else receipt.without_undo()


@dataclass(frozen=True)
class _Scope:
    """Which parameters take part in what.

    Attributes:
        allowed: Those that may change.
        moving: Those that the step is taken on.
        examined: Those whose Fisher is needed.
    """

    allowed: dict[str, Tensor]
    moving: dict[str, Tensor]
    examined: dict[str, Tensor]

    @property
    def staged(self) -> dict[str, Tensor]:
        """Those that a natural step is tried on: what moves, and what can be an output bias."""
        return {name: value for name, value in self.allowed.items() if name in self.moving or value.dim() == 1}


def _share(earlier: int, classes: int) -> float:
    """What some classes may take of a bound, after others: what independent losses would add to those before."""
    return math.sqrt(earlier + classes) - math.sqrt(earlier)


def _examine(
    model: nn.Module,
    codes: LiveCodes,
    classes: tuple[int, ...],
    fisher: FisherDiagonal | None,
    fingerprint: str,
    *,
    update: bool,
) -> CodeBatch:
    """Return the codes with their log-odds, which a kept sum remembers; it need not be updated then."""
    if fisher is None:
        return code_batch.examine(model, codes, classes)
    kept_fisher.check_model(fisher, fingerprint)
    found = kept_fisher.recall(fisher, model, codes, classes)
    return code_batch.examine(model, codes, classes) if update else found


def _step(
    clock: _Clock,
    model: nn.Module,
    scope: _Scope,
    codes: LiveCodes,
    known: CodeBatch,
    tried: CodeBatch,
    fisher: FisherDiagonal | None,
    rule: str,
    settings: dict[str, float],
) -> tuple[Step, Sensitivity | None]:
    """Stage the step of the rule; also return what it knew of the parameters, if that was looked at once for all."""
    if rule == "natural" and fisher is None and len(known.rows) > 1:
        with clock.phase("step"):
            classes = tuple(int(known.labels[rows[0]]) for rows in known.rows)
            step = natural_in_turn(model, scope.staged, codes, classes, moving=list(scope.moving), **settings)
            return step, None
    with clock.phase("fisher"):
        if fisher is None:
            found = group_sensitivity(model, scope.examined, known, natural=rule == "natural")
        else:
            found = kept_fisher.sensitivity(fisher, model, scope.examined, codes, known)
    with clock.phase("step"):
        if rule == "paper":
            return rules.paper(model, scope.moving, found, tried, **settings), found
        return rules.natural(model, scope.staged, found, tried, moving=list(scope.moving), **settings), found


def _settle(
    step: Step, codes: CodeBatch, classes: Sequence[int], wanted: bool | None, *, natural: bool, spill: float
) -> tuple[float, Biases]:
    """Move the output biases if that is wanted; a natural step must then, or already, have forgotten every code."""
    nothing = torch.zeros((), device=codes.labels.device)
    silenced, biases = 0.0, Biases(nothing, nothing)
    if wanted or (wanted is None and natural):
        silenced, biases = output_bias.settle(step.stage, codes, classes, spill)
    if wanted and not silenced:
        raise ForgettingError(
            "`silence` needs a parameter that moves the logit of each class alone, an output bias, and there is none "
            "among those that may move; the model is unchanged"
        )
    if natural and not silenced and not _forgotten(step, codes.to_forget()):
        raise ForgettingError(
            "no step within reach forgets the codes and spares the remaining ones; another `rho`, or a larger `spill` "
            "or `reach`, may allow more; the model is unchanged"
        )
    return silenced, biases


def _forgotten(step: Step, few: CodeBatch) -> bool:
    """Whether the codes of every class to forget are beyond the decision boundary."""
    return float(few.least_forgotten(log_odds(step.stage.outputs(few.inputs), few.labels))) < 0


class _Clock:
    """Wall time by phase."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._phases: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self._phases[name] = self._phases.get(name, 0.0) + time.perf_counter() - started

    def seconds(self) -> dict[str, float]:
        return {**self._phases, "total": time.perf_counter() - self._started}


def _settings(rule: str, natural: dict[str, float], paper: dict[str, float]) -> dict[str, float]:
    """Check every setting, and return those of the rule that were given."""
    if rule not in ("natural", "paper"):
        raise ValueError(f'`rule` must be "natural" or "paper", got {rule!r}')
    for name, value in {**natural, **paper}.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"`{name}` must be a number, got {type(value).__name__}")
        if not 0 < value < math.inf or (name == "rho" and value > 1):
            raise ValueError(f"`{name}` must lie in (0, {'1]' if name == 'rho' else 'inf)'}, got {value}")
    if natural["widen"] < 1:
        raise ValueError(f"`widen` must be at least 1, got {natural['widen']}")
    return natural if rule == "natural" else paper


def _check_flags(silence: Any, update: Any, fisher: Any, parameters: Any) -> None:
    if silence is not None and not isinstance(silence, bool):
        raise TypeError(f"`silence` must be a bool or None, got {type(silence).__name__}")
    if not isinstance(update, bool):
        raise TypeError(f"`update` must be a bool, got {type(update).__name__}")
    if update and (fisher is None or parameters is not None):
        raise ValueError("`update` must come with `fisher` and without `parameters`: it updates the whole sum")


def _check_batch_size(batch_size: Any) -> None:
    if batch_size is None:
        return
    if isinstance(batch_size, bool) or not isinstance(batch_size, int):
        raise TypeError(f"`batch_size` must be an int or None, got {type(batch_size).__name__}")
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}")


def _check_floor(
    model: nn.Module, floor: Floor | None, codes: CodeBatch, gone: Sequence[int]
) -> tuple[Inputs, Tensor, Tensor, float] | None:
    if floor is None:
        return None
    if not isinstance(floor, (tuple, list)) or len(floor) != 3:
        raise TypeError(f"`floor` must be (inputs, targets, accuracy), got {type(floor).__name__}")
    inputs, targets, accuracy = floor
    if not isinstance(targets, Tensor) or targets.dim() != 1 or targets.dtype not in _INTEGERS:
        raise TypeError("the targets of `floor` must be an integer tensor [N]")
    if isinstance(accuracy, bool) or not isinstance(accuracy, (int, float)):
        raise TypeError(f"the accuracy of `floor` must be a number, got {type(accuracy).__name__}")
    if not 0 <= accuracy <= 1:
        raise ValueError(f"the accuracy of `floor` must lie in [0, 1], got {accuracy}")
    count_samples(inputs, targets)
    device = codes.labels.device
    inputs, targets = pytree.tree_map_only(Tensor, lambda tensor: tensor.to(device), (inputs, targets))
    checks = Checks()
    check_finite(inputs, checks)
    gather_logits(lambda some: code_batch.fitting_logits(model, some, "floor"), inputs, codes.batch_size)
    # samples of classes forgotten earlier cannot be right, and are no reason to shorten this step
    remain = ~torch.isin(targets, torch.cat([codes.inside(codes.labels), constant(gone, device).long()]))

    def none() -> None:
        raise ValueError("`floor` must hold samples of remaining classes, got none")

    checks.add(remain.any(), bool, none)
    checks.settle()
    return inputs, targets, remain, accuracy


def _back_off(
    step: Step, biases: Biases, codes: CodeBatch, floor: tuple[Inputs, Tensor, Tensor, float] | None
) -> float:
    """Shorten the step until the floor holds; the codes of every class to forget must still be beyond the boundary."""
    if floor is None:
        return 1.0
    inputs, targets, remain, accuracy = floor
    factor, best = 1.0, 0.0
    few = codes.to_forget()
    for _ in range(_BACK_OFFS):
        if not _forgotten(step, few):
            break
        right = (step.stage.outputs(inputs).argmax(1) == targets) & remain
        reached = float(right.sum().double() / remain.sum())
        if reached >= accuracy:
            return factor
        best = max(best, reached)
        factor *= _BACK_OFF
        step.retake(factor)
        biases.scaled(factor).write(step.stage)
    raise ForgettingError(
        f"no step that forgets the codes keeps an accuracy of {accuracy:.3f} on the remaining classes of `floor`; the "
        f"best was {best:.3f}, and the model is unchanged"
    )


def _evidence(known: CodeBatch, tried: CodeBatch, step: Step, silenced: float, lowered: Tensor) -> dict[str, float]:
    """What a receipt says of the codes; of the forgotten ones after the step, without what the output biases did."""
    logits = step.stage.outputs(tried.inputs)
    parts = {
        "forget_log_odds_before": known.inside(known.odds),
        "forget_log_odds_after": tried.inside(log_odds(logits.double() + lowered, tried.labels)),
        "remain_log_odds_before": known.outside(known.odds),
        "remain_log_odds_after": tried.outside(log_odds(logits, tried.labels)),
    }
    means = {name: odds.double().mean() for name, odds in parts.items() if len(odds)}
    if len(parts["remain_log_odds_after"]):
        means["remain_log_odds_lost"] = tried.loss_of_others(logits)
    (finite,), *found = read(torch.isfinite(logits).all(), *means.values())
    if not finite:
        raise ForgettingError("the step leads to NaN or infinite logits on the codes; the model is unchanged")
    return {**{name: mean for name, (mean,) in zip(means, found, strict=True)}, "silenced_by": silenced}
