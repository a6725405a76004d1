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
from fastforget.batch import Inputs, batch_size, check_finite, forward
from fastforget.codes import MnemonicCodes
from fastforget.errors import ForgettingError, UnrecognisedCodesError
from fastforget.fingerprint import fingerprint
from fastforget.fisher import fisher_diagonal
from fastforget.model import eager, watched_parameters
from fastforget.receipt import Receipt, write
from fastforget.rules import CodeBatch, Step

__all__ = ["one_shot"]

Floor = tuple[Inputs, Tensor, float]
_BACK_OFF = 0.8
_RECOGNISED = 0.5
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
        >>> import fastforget
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3)).eval()
        >>> codes = fastforget.MnemonicCodes.generate(3, (16,))
        >>> _ = model[1].weight.data.copy_(codes.tensor.squeeze(1))  # knows its codes
        >>> receipt = fastforget.one_shot(model, codes, 1)
        >>> model(codes.inputs).argmax(1)[1].item() == 1
        False
        >>> receipt.revert(model)
    """
    clock = _Clock()
    with clock.phase("check"):
        model = eager(model)
        _check_settings(rule, rho=rho, depth=1.0 if depth is None else depth, lambda1=lambda1, lambda2=lambda2)
        names = None if parameters is None else list(parameters)
        watched = watched_parameters(model, names)
        _check_eval(model)
        codes, classes = _prepare(model, mnemonic_codes, cls, next(iter(watched.values())))
        odds_before = _check_recognised(model, codes)
        validate = _check_floor(floor, codes)
    with clock.phase("fingerprint"):
        before = fingerprint(model)
    with clock.phase("fisher"):
        fisher = fisher_diagonal(
            model, codes.inputs, codes.labels, weights=codes.groups, parameters=watched, with_gradient=rule == "natural"
        )
    with clock.phase("step"):
        settings: dict[str, Any]
        if rule == "natural":
            default = _DEPTH_ONE_CODE if codes.per_class == 1 else _DEPTH
            settings = {"rho": rho, "depth": default if depth is None else depth}
            step = rules.natural(model, watched, fisher, codes, **settings)
        else:
            settings = {"lambda1": lambda1, "lambda2": lambda2}
            step = rules.paper(model, watched, fisher, codes, lambda1=lambda1, lambda2=lambda2)
    with clock.phase("floor"):
        factor = _back_off(step, codes, validate)
        odds_after = _finite(rules.log_odds(step.stage.outputs(codes.inputs), codes.labels))
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
        evidence=_evidence(codes, odds_before, odds_after),
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
    check_finite(codes.inputs)
    logits = _logits(model, codes.inputs)
    if logits.shape != (len(codes) * codes.per_class, len(codes)):
        raise ValueError(
            f"`mnemonic_codes` must have one class per output of the model: got {len(codes)} classes x "
            f"{codes.per_class} codes, and outputs of shape {tuple(logits.shape)}"
        )
    labels = codes.labels
    forget = torch.isin(labels, torch.tensor(classes, device=labels.device))
    return CodeBatch(codes.inputs, labels, forget, codes.per_class), classes


def _from_tensor(model: nn.Module, tensor: Tensor, like: Tensor) -> MnemonicCodes:
    """Read a tensor as [C, *shape] if the model takes its first row as one sample, else as [C, M, *shape]."""
    if tensor.dim() < 2 or tensor.numel() == 0:
        raise ValueError(f"`mnemonic_codes` must be [C, *shape] or [C, M, *shape], got shape {tuple(tensor.shape)}")
    tensor = tensor.detach().to(device=like.device, dtype=like.dtype if tensor.is_floating_point() else tensor.dtype)
    try:
        single = _logits(model, tensor[:1]).dim() == 2
    except (RuntimeError, ValueError, IndexError):  # what PyTorch's functions raise for a shape they do not take
        single = False
    if not single and tensor.dim() < 3:
        raise ValueError(f"`mnemonic_codes` must have the model's input shape, got {tuple(tensor.shape[1:])} per class")
    return MnemonicCodes.from_tensors(tensor.unsqueeze(1) if single else tensor)


def _classes(cls: int | Sequence[int], total: int) -> tuple[int, ...]:
    values = [cls] if not isinstance(cls, Iterable) else list(cls)
    try:
        classes = [operator.index(value) for value in values if not isinstance(value, bool)]
    except TypeError as error:
        raise TypeError(f"`cls` must be an int or a sequence of ints, got {cls!r}") from error
    if len(classes) != len(values):
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


def _logits(model: nn.Module, inputs: Inputs) -> Tensor:
    """Return the model's logits, without gradients and without touching the random state."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        outputs = forward(model, inputs)
    logits = outputs if isinstance(outputs, Tensor) else getattr(outputs, "logits", None)
    if not isinstance(logits, Tensor):
        raise TypeError(f"`model` must return logits or an object with `.logits`, got {type(outputs).__name__}")
    return logits


def _check_recognised(model: nn.Module, codes: CodeBatch) -> Tensor:
    """Refuse codes that the model does not know; return their log-odds."""
    logits = _logits(model, codes.inputs)
    if not bool(torch.isfinite(logits).all()):
        raise ValueError("`model` must give finite logits on the codes, got NaN or infinity")
    right = logits.argmax(1) == codes.labels
    share, forgotten = float(right.float().mean()), codes.labels[codes.forget & ~right].unique().tolist()
    if share < _RECOGNISED or forgotten:
        of = f"; among the classes to forget not {forgotten}" if forgotten else ""
        raise UnrecognisedCodesError(
            f"`mnemonic_codes` must be known to the model: it recognises {share:.0%} of them{of}. Train or fine-tune "
            "with the codes (codes.embed), or pass a few real images per class as codes "
            "(MnemonicCodes.from_tensors)"
        )
    return rules.log_odds(logits, codes.labels)


def _check_floor(floor: Floor | None, codes: CodeBatch) -> tuple[Inputs, Tensor, Tensor, float] | None:
    if floor is None:
        return None
    inputs, targets, accuracy = floor
    batch_size(inputs, targets)
    check_finite(inputs)
    if not 0 <= accuracy <= 1:
        raise ValueError(f"the accuracy of `floor` must lie in [0, 1], got {accuracy}")
    remain = ~torch.isin(targets, codes.labels[codes.forget])
    if not bool(remain.any()):
        raise ValueError("`floor` must hold samples of remaining classes, got none")
    return inputs, targets, remain, accuracy


def _back_off(step: Step, codes: CodeBatch, floor: tuple[Inputs, Tensor, Tensor, float] | None) -> float:
    """Shorten the step until the floor holds; it must still make every forget code misclassified."""
    if floor is None:
        return 1.0
    inputs, targets, remain, accuracy = floor
    factor, reached = 1.0, -1.0
    while True:
        still = step.stage.outputs(codes.inputs).argmax(1) == codes.labels
        if bool(still[codes.forget].any()):
            raise ForgettingError(
                f"no step keeps an accuracy of {accuracy:.3f} on the remaining classes of `floor` and forgets the "
                f"codes; the best was {reached:.3f}. The model is unchanged"
            )
        reached = float((step.stage.outputs(inputs).argmax(1) == targets)[remain].float().mean())
        if reached >= accuracy:
            return factor
        factor *= _BACK_OFF
        step.retake(factor)


def _finite(values: Tensor) -> Tensor:
    if not bool(torch.isfinite(values).all()):
        raise ForgettingError("the step leads to NaN or infinite logits on the codes; the model is unchanged")
    return values


def _evidence(codes: CodeBatch, before: Tensor, after: Tensor) -> dict[str, float]:
    """Mean and extreme log-odds of the codes, nats."""
    groups = {"forget": codes.forget, "remain": ~codes.forget}
    times = {"before": before, "after": after}
    return {
        f"{group}_log_odds_{when}": float(values[chosen].double().mean())
        for group, chosen in groups.items()
        for when, values in times.items()
    }
