"""Forget classes in one shot: one forward and backward of the mnemonic codes, one edit."""

from __future__ import annotations

import math
import operator
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fastforget import rules
from fastforget.batch import Inputs, batch_size, check_finite, logits_of, tensors_of
from fastforget.codes import MnemonicCodes
from fastforget.errors import ForgettingError, UnrecognisedCodesError
from fastforget.fingerprint import fingerprint
from fastforget.fisher import fisher_diagonal
from fastforget.losses import ScaledCrossEntropy, log_odds
from fastforget.model import eager, watched_parameters
from fastforget.receipt import Receipt, write
from fastforget.rules import CodeBatch, Step
from fastforget.staging import run

__all__ = ["one_shot"]

Floor = tuple[Inputs, Tensor, float]
_BACK_OFF = 0.8
_RECOGNISED = 0.5
# What modules raise for inputs that they do not take.
_SHAPE_ERRORS = (RuntimeError, ValueError, IndexError, TypeError)
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
# Measured on digits, see docs/one_shot.md.
_DEPTH, _DEPTH_ONE_CODE = 6.0, 8.0


def one_shot(
    model: nn.Module,
    mnemonic_codes: MnemonicCodes | Tensor,
    cls: int | Sequence[int],
    *,
    rule: Literal["natural", "paper"] = "natural",
    rho: float = 0.03,
    depth: float | None = None,
    lambda1: float = 1e-3,
    lambda2: float = 1.0,
    parameters: Iterable[str] | None = None,
    floor: Floor | None = None,
    undo: bool = True,
) -> Receipt:
    r"""Make a classifier forget one or several classes, in place, from their mnemonic codes alone.

    One forward and backward over all codes gives the diagonal Fisher of the forgotten classes, f_CF, and of the
    remaining ones, f_CR. ``rule="natural"`` (default, ours) takes one natural-gradient step up the forgotten codes'
    loss on the share ``rho`` of parameters with the largest f_CF / f_CR; its length comes from forward passes of
    the codes, see `fastforget.rules.natural`. ``rule="paper"`` moves every parameter by its ratio, see
    `fastforget.rules.paper`. Both are deterministic and use no data but the codes.

    Source: Yamashita, Yamada, Shibata, "One-shot machine unlearning with mnemonic code", ACML 2024; the natural
    rule deviates in direction, mask and step.

    Args:
        model: A classifier in eval mode that was trained with the codes; logits [N, C] from its forward.
        mnemonic_codes: `MnemonicCodes`, or a tensor [C, \*shape] or [C, M, \*shape].
        cls: The class to forget, or several.
        rule: "natural" or "paper".
        rho: Natural rule: share of the parameters that moves, (0, 1].
        depth: Natural rule: how far beyond the decision boundary the forgotten codes end, nats of log-odds. By
            default 6, or 8 if there is only one code per class, which says less about where its class is.
        lambda1: Paper's rule: bound on the scale of a tensor's change.
        lambda2: Paper's rule: bound on the largest change in a tensor.
        parameters: Names of the parameters that may move; all of them by default.
        floor: ``(inputs, targets, accuracy)``: some validation samples, and the accuracy in [0, 1] on those of
            remaining classes below which the edit must not fall. The step is shortened until it holds.
        undo: Keep the old values in the receipt, so that it can be reverted.

    Returns:
        The receipt: what changed, fingerprints, timings, and the values to undo or repeat the edit.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument has a wrong value, for instance codes of the wrong shape or number of classes, a
            class out of range or repeated, all classes at once, a model in train mode, a frozen parameter.
        UnrecognisedCodesError: The model was not trained with these codes.
        NotImplementedError: The model is on a device without kernels.
        ForgettingError: No step forgets the class, or none within the floor.

    After any error the model is what it was before.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3)).eval()
        >>> codes = MnemonicCodes.generate(3, (16,))
        >>> _ = model[1].weight.data.copy_(codes.tensor.squeeze(1))  # knows its codes
        >>> receipt = one_shot(model, codes, 1)
        >>> model(codes.inputs).argmax(1)[1].item() == 1
        False
        >>> receipt.revert(model)
    """
    clock = _Clock()
    with clock.phase("check"):
        model = eager(model)
        _check_settings(rule, rho=rho, depth=1.0 if depth is None else depth, lambda1=lambda1, lambda2=lambda2)
        watched = watched_parameters(model, None if parameters is None else list(parameters))
        _check_eval(model)
        codes, classes = _prepare(model, mnemonic_codes, cls, next(iter(watched.values())))
        validate = _check_floor(model, floor, codes)
    with clock.phase("fingerprint"):
        before = fingerprint(model)
    with clock.phase("fisher"):
        natural = rule == "natural"
        loss = ScaledCrossEntropy(codes.scale if natural else 1.0)
        fisher = fisher_diagonal(
            model,
            codes.inputs,
            codes.labels,
            loss=loss,
            weights=codes.groups,
            parameters=watched,
            with_gradient=natural,
        )
    with clock.phase("step"):
        settings: dict[str, float]
        if natural:
            default = _DEPTH_ONE_CODE if codes.per_class == 1 else _DEPTH
            settings = {"rho": rho, "depth": default if depth is None else depth}
            step = rules.natural(model, watched, fisher, codes, **settings)
        else:
            settings = {"lambda1": lambda1, "lambda2": lambda2}
            step = rules.paper(model, watched, fisher, codes, **settings)
    with clock.phase("floor"):
        factor = _back_off(step, codes, validate)
        evidence = _evidence(codes, step.stage.outputs(codes.inputs))
    with clock.phase("write"):
        edits = step.stage.edits()
        write(model, edits, old=False)
    with clock.phase("fingerprint"):
        after = fingerprint(model)
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
        edits=edits,
    )
    return receipt if undo else receipt.without_undo()


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


def _check_settings(rule: str, **settings: float) -> None:
    if rule not in ("natural", "paper"):
        raise ValueError(f'`rule` must be "natural" or "paper", got {rule!r}')
    for name, value in settings.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"`{name}` must be a number, got {type(value).__name__}")
        if not 0 < value < math.inf or (name == "rho" and value > 1):
            raise ValueError(f"`{name}` must lie in (0, {'1]' if name == 'rho' else 'inf)'}, got {value}")


def _check_eval(model: nn.Module) -> None:
    for path, module in model.named_modules():
        if module.training:
            raise ValueError(
                f"`model` must be in eval mode, got module {path or type(module).__name__!r} in train mode; call "
                "model.eval() first"
            )


def _prepare(
    model: nn.Module, given: MnemonicCodes | Tensor, cls: int | Sequence[int], like: Tensor
) -> tuple[CodeBatch, tuple[int, ...]]:
    """Bring the codes to the model's device and dtype and check them and the classes against its outputs."""
    if not isinstance(given, (MnemonicCodes, Tensor)):
        raise TypeError(f"`mnemonic_codes` must be MnemonicCodes or a tensor, got {type(given).__name__}")
    codes = given if isinstance(given, MnemonicCodes) else _from_tensor(model, given, like)
    codes = codes.to(like.device).to(like.dtype)
    classes = _classes(cls, len(codes))
    found = _fitting_logits(model, codes.inputs, "mnemonic_codes")
    if found.shape != (len(codes) * codes.per_class, len(codes)):
        raise ValueError(
            f"`mnemonic_codes` must have one class per output of the model, got {len(codes)} classes x "
            f"{codes.per_class} codes, and outputs of shape {tuple(found.shape)}"
        )
    labels = codes.labels
    forget = torch.isin(labels, torch.tensor(classes, device=labels.device))
    _check_recognised(found, labels, forget)
    return CodeBatch(codes.inputs, labels, forget, log_odds(found, labels), codes.per_class), classes


def _from_tensor(model: nn.Module, tensor: Tensor, like: Tensor) -> MnemonicCodes:
    """Read a tensor as [C, *shape] if the model takes its first row as one sample, else as [C, M, *shape]."""
    if tensor.dim() < 2 or tensor.numel() == 0:
        raise ValueError(f"`mnemonic_codes` must be [C, *shape] or [C, M, *shape], got shape {tuple(tensor.shape)}")
    if tensor.device.type == "meta":
        raise ValueError("`mnemonic_codes` must hold values, got a tensor on the meta device")
    tensor = tensor.detach().to(device=like.device, dtype=like.dtype if tensor.is_floating_point() else tensor.dtype)
    try:
        single = logits_of(run(model, tensor[:1])).dim() == 2
    except _SHAPE_ERRORS:
        single = False
    return MnemonicCodes.from_tensors(tensor.unsqueeze(1) if single or tensor.dim() == 2 else tensor)


def _fitting_logits(model: nn.Module, inputs: Inputs, name: str) -> Tensor:
    """Return the model's logits, or say that the inputs are not what it takes."""
    try:
        outputs = run(model, inputs)
    except _SHAPE_ERRORS as error:
        shapes = [tuple(tensor.shape[1:]) for tensor in tensors_of(inputs)]
        raise ValueError(
            f"`{name}` must be what the model's forward takes, got samples of shape "
            f"{', '.join(map(str, shapes))}: {error}"
        ) from error
    return logits_of(outputs)


def _classes(cls: int | Sequence[int], total: int) -> tuple[int, ...]:
    values: list[Any] = [cls]
    if isinstance(cls, Iterable) and getattr(cls, "shape", None) != ():  # arrays without dimensions claim to be
        values = list(cls)
    try:
        classes = [operator.index(value) for value in values]
    except TypeError as error:
        raise TypeError(f"`cls` must be an int or a sequence of ints, got {cls!r}") from error
    if any(isinstance(value, bool) or getattr(value, "dtype", None) == torch.bool for value in values):
        raise TypeError(f"`cls` must be an int or a sequence of ints, got {cls!r}")
    if not classes:
        raise ValueError("`cls` must name at least one class, got none")
    if len(set(classes)) != len(classes):
        raise ValueError(f"`cls` must name each class once, got {classes}")
    if min(classes) < 0 or max(classes) >= total:
        raise ValueError(f"`cls` must lie in [0, {total}), got {classes}")
    if len(classes) == total:
        raise ValueError(f"`cls` must leave at least one of {total} classes, got all of them")
    return tuple(sorted(classes))


def _check_recognised(found: Tensor, labels: Tensor, forget: Tensor) -> None:
    """Refuse codes that the model does not know."""
    if not bool(torch.isfinite(found).all()):
        raise ValueError("`model` must give finite logits on the codes, got NaN or infinity")
    right = found.argmax(1) == labels
    share, unknown = float(right.float().mean()), labels[forget & ~right].unique().tolist()
    if share >= _RECOGNISED and not unknown:
        return
    which = f", not all of class {', '.join(map(str, unknown))}" if unknown else ""
    raise UnrecognisedCodesError(
        f"`mnemonic_codes` must be known to the model, but it recognises {share:.0%} of them{which}. Train or "
        "fine-tune it with the codes (codes.embed), or pass a few real images per class as codes "
        "(MnemonicCodes.from_tensors)"
    )


def _check_floor(
    model: nn.Module, floor: Floor | None, codes: CodeBatch
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
    batch_size(inputs, targets)
    check_finite(inputs)
    _fitting_logits(model, inputs, "floor")
    remain = ~torch.isin(targets, codes.labels[codes.forget])
    if not bool(remain.any()):
        raise ValueError("`floor` must hold samples of remaining classes, got none")
    return inputs, targets, remain, accuracy


def _back_off(step: Step, codes: CodeBatch, floor: tuple[Inputs, Tensor, Tensor, float] | None) -> float:
    """Shorten the step until the floor holds; the codes of every class to forget must still be beyond the boundary."""
    if floor is None:
        return 1.0
    inputs, targets, remain, accuracy = floor
    factor, best = 1.0, 0.0
    while codes.least_forgotten(step.stage.outputs(codes.inputs)) < 0:
        right = step.stage.outputs(inputs).argmax(1) == targets
        reached = float(right[remain].double().mean())
        if reached >= accuracy:
            return factor
        best = max(best, reached)
        factor *= _BACK_OFF
        step.retake(factor)
    raise ForgettingError(
        f"no step that forgets the codes keeps an accuracy of {accuracy:.3f} on the remaining classes of `floor`; the "
        f"best was {best:.3f}, and the model is unchanged"
    )


def _evidence(codes: CodeBatch, found: Tensor) -> dict[str, float]:
    """Mean log-odds of the codes before and after, nats."""
    after = log_odds(found, codes.labels)
    if not bool(torch.isfinite(after).all()):
        raise ForgettingError("the step leads to NaN or infinite logits on the codes; the model is unchanged")
    groups = {"forget": codes.forget, "remain": ~codes.forget}
    times = {"before": codes.odds, "after": after}
    return {
        f"{group}_log_odds_{when}": float(values[chosen].double().mean())
        for group, chosen in groups.items()
        for when, values in times.items()
    }
