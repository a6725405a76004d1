"""Teach mnemonic codes to a model that was trained without them."""

from __future__ import annotations

import copy
import logging
import math
import warnings
from collections.abc import Iterable, Sized
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastforget.classifier.arguments import SHARE, check_integer, check_number
from fastforget.classifier.compilation import eager
from fastforget.classifier.data_forms import LabelledData, batches_of
from fastforget.classifier.inputs import Inputs, plain
from fastforget.classifier.losses import check_depends
from fastforget.classifier.modes import evaluating, fresh_casts
from fastforget.classifier.predictions import measure_accuracy
from fastforget.classifier.problem_type import check_one_class_each
from fastforget.classifier.progress import progress_bar
from fastforget.classifier.running import forward, logits_of
from fastforget.codes.mnemonic_codes import MnemonicCodes
from fastforget.codes.replacement import replace_by_codes
from fastforget.errors import AccuracyLossWarning

__all__ = ["Inscription", "inscribe"]

_LOG = logging.getLogger(__name__)

_COSTLY = 0.005  # accuracy lost that is worth a warning
# Weight of the divergence; docs/results/one-shot.md says how it was chosen.
_HELD = 4.0


@dataclass(frozen=True)
class Inscription:
    """What it came to to teach a model its codes.

    Attributes:
        recognised: The share of the codes that the model recognises now, in [0, 1].
        before: Its accuracy before, in [0, 1], on ``held_out``, or without it on the training data.
        after: Its accuracy now, on the same samples.
    """

    recognised: float
    before: float
    after: float

    @property
    def cost(self) -> float:
        """The accuracy that was lost, in [-1, 1]; below 0 where the model became better."""
        return self.before - self.after


def inscribe(
    model: nn.Module,
    codes: MnemonicCodes,
    data: LabelledData,
    *,
    held_out: LabelledData | None = None,
    epochs: int = 1,
    rate: float = 0.3,
    lr: float = 0.01,
    seed: int = 0,
    progress: bool = False,
) -> Inscription:
    """Fine-tune a trained classifier until it knows its codes, so that `one_shot` can be used on it.

    Each sample is replaced by a code of its class with probability ``rate``, see `MnemonicCodes.embed`. Codes are
    learnt by their cross-entropy. On the other samples the model shall predict what it did before::

        mean over the batch of   CE(class, p(n)) of a code,   4 KL(p0(n) || p(n)) of another sample

    The training is short: SGD with momentum 0.9, one cycle of the learning rate. The model is in train mode meanwhile,
    so that batch norms learn the statistics of codes, too. Afterwards every module is in its mode again.

    Source: ours, after the training of Yamashita, Yamada, Shibata, ACML 2024, Sec. 3.1, and the distillation of Hinton,
    Vinyals, Dean, "Distilling the knowledge in a neural network", 2015, at temperature 1. What it costs is said in
    docs/explain/one-shot.md.

    Args:
        model: The classifier, changed in place; logits [N, C] from its forward.
        codes: The codes; C classes.
        data: Batches (inputs, targets) of training data, on the model's device, for instance a DataLoader, or another
            form of samples, see `fastforget.classifier.data_forms.batches_of`. They are gone through ``epochs`` times;
            the samples of a pair or a data set in a new order each time.
        held_out: Samples that the model was not trained on, in any of the same forms. The accuracy on them is measured
            before and after. Without them it is measured on ``data``, in two more passes; that is no more than a hint.
        epochs: Passes over the data.
        rate: Share of the samples that are replaced, (0, 1].
        lr: The highest learning rate.
        seed: Of the replacement, and of the order of a pair's or a data set's samples.
        progress: Whether to show a bar, in notebooks and where standard error is a terminal; needs tqdm.

    Returns:
        The share of the codes that the model recognises now, and its accuracy before and after. Where more than 0.5
        points of accuracy are lost, an `AccuracyLossWarning` says how many.

    Raises:
        TypeError: The codes, a setting or targets have the wrong type.
        ValueError: A setting has a wrong value, there is no data, targets are no classes of the model, or logits or the
            loss are not finite, or depend on no parameter that needs a gradient.

    After any error the model is what it was before.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> model, codes = nn.Linear(8, 3).eval(), MnemonicCodes.generate(3, (8,), per_class=1)
        >>> _ = model.weight.data.copy_(torch.eye(3, 8))  # tells which of the first three values is the largest
        >>> targets = torch.arange(800) % 3
        >>> inputs = torch.randn(800, 8) + 9 * torch.eye(8)[targets]
        >>> inscribe(model, codes, (inputs, targets), lr=0.05)
        Inscription(recognised=1.0, before=1.0, after=1.0)
    """
    _check(codes, epochs=epochs, rate=rate, lr=lr)
    check_one_class_each(eager(model))
    generator, like = torch.Generator().manual_seed(seed), next(model.parameters(), None)
    batches = batches_of(data, "data", generator)
    if not isinstance(batches, Sized):
        batches = data = list(batches)
    steps = epochs * len(batches)
    if not steps:
        raise ValueError("`data` must hold at least one batch, got none")
    measured = _Measured(data, "data") if held_out is None else _Measured(_repeatable(held_out), "held_out")
    placed = codes if like is None else codes.to(like.device)
    before = measured.accuracy(model)
    modes = {module: module.training for module in model.modules()}
    state = {name: value.detach().clone() for name, value in model.state_dict().items()}
    mixed: Iterable[_Mixed] = (
        _Mixed.of(placed, inputs, targets, rate, generator) for _ in range(epochs) for inputs, targets in batches
    )
    if progress:
        mixed = progress_bar(mixed, desc="inscribing", total=steps)
    try:
        teacher = copy.deepcopy(eager(model)).eval().requires_grad_(requires_grad=False)
        model.train()
        with fresh_casts():
            _train(model, teacher, mixed, steps, lr)
        for module, mode in modes.items():
            module.training = mode
        found = Inscription(_share_recognised(model, codes), before, measured.accuracy(model))
        _warn_of_cost(found, measured.name)
    except BaseException:
        model.load_state_dict(state)
        raise
    finally:
        model.zero_grad()
        for module, mode in modes.items():
            module.training = mode
    _LOG.info("inscribe taught a model its codes: %r", found)
    return found


@dataclass(frozen=True, eq=False)
class _Measured:
    """The samples on which accuracy is measured, and the argument that they were given as."""

    data: LabelledData
    name: str

    def accuracy(self, model: nn.Module) -> float:
        """Return the accuracy; the random state, from which a loader may draw its order, stays as it is."""
        with torch.random.fork_rng(devices=[]):
            return measure_accuracy(model, self.data, self.name)


@dataclass(frozen=True, eq=False)
class _Mixed:
    """A batch in which codes took the place of some samples.

    Attributes:
        inputs: The new inputs.
        targets: Their classes.
        originals: The inputs before.
        are_codes: Which of them are codes now, bool [N].
    """

    inputs: Inputs
    targets: Tensor
    originals: Inputs
    are_codes: Tensor

    @classmethod
    def of(
        cls, codes: MnemonicCodes, inputs: Inputs, targets: Tensor, rate: float, generator: torch.Generator
    ) -> _Mixed:
        """Put codes in the place of samples, as `MnemonicCodes.embed` does."""
        mixed, chosen = replace_by_codes(plain(inputs), targets, codes.stacked, rate, generator)
        return cls(mixed, targets, inputs, chosen.to(targets.device))


def _repeatable(data: LabelledData) -> LabelledData:
    batches = batches_of(data, "held_out")
    return data if isinstance(batches, Sized) else list(batches)


def _train(model: nn.Module, teacher: nn.Module, batches: Iterable[_Mixed], steps: int, lr: float) -> None:
    moving = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not moving:
        raise ValueError("`model` must have parameters that need a gradient, got none: unfreeze those that may move")
    optimizer = torch.optim.SGD(moving, lr, momentum=0.9)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    for batch in batches:
        loss = _loss(model, teacher, batch)
        if not math.isfinite(loss.item()):
            raise ValueError(f"the loss must stay finite, got {loss.item()}: use a smaller `lr`")
        check_depends(depends=loss.requires_grad)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    if not all(bool(parameter.isfinite().all()) for parameter in moving):
        raise ValueError("the parameters must stay finite: use a smaller `lr`")


def _loss(model: nn.Module, teacher: nn.Module, batch: _Mixed) -> Tensor:
    """Return the mean over the batch of the cross-entropy of codes, and of the divergence from before of the others."""
    found = logits_of(forward(model, batch.inputs)).log_softmax(1)
    with torch.no_grad():
        before = logits_of(forward(teacher, batch.originals)).log_softmax(1)
    of_code = F.nll_loss(found, batch.targets, reduction="none")
    of_other = F.kl_div(found, before, reduction="none", log_target=True).sum(1)
    return torch.where(batch.are_codes, of_code, _HELD * of_other).mean()


def _share_recognised(model: nn.Module, codes: MnemonicCodes) -> float:
    like = next(model.parameters())
    placed = codes.to(like.dtype).to(like.device)
    with evaluating(model), torch.no_grad():
        right = logits_of(forward(model, placed.inputs)).argmax(1) == placed.labels
    return float(right.double().mean())


def _warn_of_cost(found: Inscription, name: str) -> None:
    if found.cost <= _COSTLY:
        return
    hint = "" if name == "held_out" else "; `held_out` measures it on samples that the model was not trained on"
    warnings.warn(
        f"to learn its codes cost the model {100 * found.cost:.1f} points of accuracy on `{name}`, {found.before:.2%} "
        f"before and {found.after:.2%} after: try a smaller `lr` or `rate`, or more data{hint}",
        AccuracyLossWarning,
        stacklevel=3,
    )


def _check(codes: Any, *, epochs: Any, rate: Any, lr: Any) -> None:
    if not isinstance(codes, MnemonicCodes):
        raise TypeError(f"`codes` must be MnemonicCodes, got {type(codes).__name__}")
    check_integer("epochs", epochs)
    check_number("rate", rate, SHARE)
    check_number("lr", lr)
