"""What one call is asked to do: which classes to forget, how deep, by which codes and samples; what may move."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from fastforget.class_forgetting import kept_fisher
from fastforget.class_forgetting.given_samples import GivenSamples, read_samples
from fastforget.class_forgetting.live_codes import LiveCodes, prepare_codes, read_request_classes
from fastforget.class_forgetting.settings import NaturalSettings, PaperSettings
from fastforget.class_forgetting.usable_samples import usable_samples
from fastforget.classifier.arguments import check_integer
from fastforget.classifier.compilation import eager
from fastforget.classifier.data_forms import LabelledData
from fastforget.classifier.inputs import Inputs
from fastforget.classifier.modes import check_eval
from fastforget.classifier.parameters import chosen_parameters, without_embedding_tables
from fastforget.classifier.problem_type import check_one_class_each
from fastforget.codes.mnemonic_codes import MnemonicCodes
from fastforget.fisher.diagonal import FisherDiagonal

__all__ = ["ClassRequest", "Level", "Scope", "read_request"]

Level = Literal["output", "body", "features"]


@dataclass(frozen=True)
class Scope:
    """Which parameters take part in what, by name.

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
        """Those that a step is tried on: what moves, and what can belong to the output layer."""
        return {name: value for name, value in self.allowed.items() if name in self.moving or value.dim() == 1}


@dataclass(frozen=True, eq=False)
class ClassRequest:
    """A checked request to forget classes.

    Attributes:
        model: The eager module.
        classes: The classes to forget, in order.
        remaining: The classes that remain, in order.
        forgotten: The classes forgotten earlier, in order.
        codes: The codes of the classes that the model knows; None without codes.
        samples: Real samples; None without.
        level: How deep the class is forgotten.
        scope: The parameters.
        settings: Of the rule.
        spill: How much log-odds a remaining code may lose to this request, nats.
        output_row: Whether the output layer changes; None for where that is possible, with the natural rule.
        kept: The Fisher sum over the codes, if it was kept.
        update: Whether to bring that up to date.
        batch_size: How many codes or samples are run at a time; None for all.
    """

    model: nn.Module
    classes: tuple[int, ...]
    remaining: tuple[int, ...]
    forgotten: tuple[int, ...]
    codes: LiveCodes | None
    samples: GivenSamples | None
    level: Level
    scope: Scope
    settings: NaturalSettings | PaperSettings
    spill: float
    output_row: bool | None
    kept: FisherDiagonal | None
    update: bool
    batch_size: int | None

    @property
    def natural(self) -> bool:
        """Whether the rule is the natural one."""
        return isinstance(self.settings, NaturalSettings)

    @property
    def total(self) -> int:
        """The number of classes, C."""
        return len(self.classes) + len(self.remaining) + len(self.forgotten)

    @property
    def changes_output(self) -> bool:
        """Whether the output layer is to change."""
        return self.natural if self.output_row is None else self.output_row

    @property
    def runs_codes_once(self) -> bool:
        """Whether one forward of all codes says both whether the model knows them and what their Fisher is."""
        fits = self.codes is not None and (self.batch_size is None or self.batch_size >= len(self.codes))
        return fits and self.natural and self.kept is None and len(self.classes) == 1 and self.level != "output"

    @property
    def runs_remaining(self) -> bool:
        """Whether all remaining codes are run as well: a kept sum that is not updated spares that."""
        return self.kept is None or self.update


def read_request(
    model: nn.Module,
    mnemonic_codes: MnemonicCodes | Tensor | None,
    cls: int | Sequence[int],
    forgotten: int | Sequence[int],
    *,
    level: Level | None,
    samples: tuple[Inputs, Tensor | None] | LabelledData | None,
    rule: str,
    natural: NaturalSettings,
    paper: PaperSettings,
    output_row: bool | None,
    parameters: Iterable[str] | None,
    fisher: FisherDiagonal | None,
    update: bool,
    batch_size: int | None,
) -> ClassRequest:
    """Check these arguments of `one_shot` against each other and the model, which is run on ``samples`` alone.

    Args:
        model: The classifier.
        mnemonic_codes: Its codes, or None.
        cls: The classes to forget.
        forgotten: The classes forgotten earlier.
        level: How deep the classes are forgotten; None for as deep as codes and samples allow.
        samples: Real samples, or None.
        rule: "natural" or "paper".
        natural: Settings of the natural rule, as given; their ``spill`` also bounds what output biases do.
        paper: Settings of the paper's rule.
        output_row: Whether to change the output layer, or None.
        parameters: Names of the parameters that may move, or None.
        fisher: The kept sum, or None.
        update: Whether to bring it up to date.
        batch_size: How many codes are run at a time, or None.

    Returns:
        The request.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument has a wrong value.
    """
    model = eager(model)
    _check_options(level, rule, output_row=output_row, update=update, batch_size=batch_size)
    if update and (fisher is None or parameters is not None):
        raise ValueError("`update` must come with `fisher` and without `parameters`: it updates the whole sum")
    if mnemonic_codes is None and (samples is None or fisher is not None or rule == "paper"):
        when = "without `samples`" if samples is None else 'with `fisher` or rule="paper"'
        raise ValueError(f"`mnemonic_codes` must be given {when}, got None")
    allowed = chosen_parameters(model, None if parameters is None else list(parameters))
    check_one_class_each(model)
    check_eval(model)
    moving = allowed if rule == "paper" or parameters is not None else without_embedding_tables(model, allowed)
    scope = Scope(allowed, moving, allowed if update else moving)
    like = next(iter(allowed.values()))
    codes: LiveCodes | None = None
    given: GivenSamples | None = None
    if mnemonic_codes is not None:
        codes, _ = prepare_codes(model, mnemonic_codes, cls, forgotten, like, batch_size)
    if samples is not None:
        given = read_samples(samples, model, like, batch_size)
        if codes is not None and given.classes != len(codes.codes):
            raise ValueError(f"`mnemonic_codes` must be of {given.classes} classes, got {len(codes.codes)}")
    total = len(codes.codes) if codes is not None else given.classes if given is not None else 0
    classes, live = read_request_classes(cls, forgotten, total)
    if codes is not None and fisher is not None:
        kept_fisher.check(fisher, scope.examined, codes, classes, rule)
    remaining = tuple(c for c in live if c not in classes)
    if given is not None:
        given = usable_samples(given, level, classes, live)
    chosen = _choose_level(level, classes, codes, given, natural=rule == "natural")
    natural = natural.after(total - len(live), len(classes))
    return ClassRequest(
        model,
        classes,
        remaining,
        tuple(c for c in range(total) if c not in live),
        codes,
        given,
        chosen,
        scope,
        natural if rule == "natural" else paper,
        natural.spill,
        output_row,
        fisher,
        update,
        batch_size,
    )


def _choose_level(
    level: Level | None,
    classes: tuple[int, ...],
    codes: LiveCodes | None,
    samples: GivenSamples | None,
    *,
    natural: bool,
) -> Level:
    """Return the level that was asked for, or the deepest that codes and samples allow.

    Raises:
        ValueError: They do not allow what was asked for.
    """
    complete = natural and samples is not None and samples.hold_all(classes)
    if level == "features" and not complete:
        raise ValueError(
            '`level="features"` needs `samples=(inputs, targets)` with some of every class to forget, and '
            'rule="natural": codes alone do not carry the features of a class'
        )
    if level == "body" and codes is None:
        raise ValueError(
            '`level="body"` needs `mnemonic_codes`; real samples can stand in for them (MnemonicCodes.from_tensors)'
        )
    if level is not None:
        return level
    if complete:
        return "features"
    return "output" if codes is None else "body"


def _check_options(level: Any, rule: Any, *, output_row: Any, update: Any, batch_size: Any) -> None:
    if level not in (None, "output", "body", "features"):
        raise ValueError(f'`level` must be "output", "body", "features" or None, got {level!r}')
    if rule not in ("natural", "paper"):
        raise ValueError(f'`rule` must be "natural" or "paper", got {rule!r}')
    if output_row is not None and not isinstance(output_row, bool):
        raise TypeError(f"`output_row` must be a bool or None, got {type(output_row).__name__}")
    if level == "output" and (output_row is False or rule == "paper"):
        raise ValueError('`level="output"` changes the output row alone: leave `output_row` and `rule` out')
    if not isinstance(update, bool):
        raise TypeError(f"`update` must be a bool, got {type(update).__name__}")
    if batch_size is None:
        return
    if isinstance(batch_size, bool) or not isinstance(batch_size, int):
        raise TypeError(f"`batch_size` must be an int or None, got {type(batch_size).__name__}")
    check_integer("batch_size", batch_size)
