"""Forget classes in one shot: one forward and backward of the mnemonic codes, one edit."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from functools import partial
from typing import Literal

from torch import Tensor, nn

from fastforget.class_forgetting import kept_fisher
from fastforget.class_forgetting.code_batch import CodeBatch
from fastforget.class_forgetting.disconnection import change_output, recalibrate
from fastforget.class_forgetting.evidence import read_evidence
from fastforget.class_forgetting.feature_level import disperse_features
from fastforget.class_forgetting.floor import back_off, check_remaining_floor
from fastforget.class_forgetting.natural_rule import take_natural_step
from fastforget.class_forgetting.output_layer import OutputChange
from fastforget.class_forgetting.paper_rule import take_paper_step
from fastforget.class_forgetting.recognition import examine_codes
from fastforget.class_forgetting.request import ClassRequest, Level, read_request
from fastforget.class_forgetting.sensitivity import (
    Ratios,
    Sensitivity,
    measure_sensitivity,
    recognise_and_measure,
)
from fastforget.class_forgetting.settings import NaturalSettings, PaperSettings
from fastforget.class_forgetting.several_classes import take_steps_in_turn
from fastforget.class_forgetting.stage import Stage, Standstill, Step
from fastforget.class_forgetting.usable_samples import sample_counts, warn_of_missing
from fastforget.classifier.arguments import check_optional_number
from fastforget.classifier.clock import Clock
from fastforget.classifier.data_forms import LabelledData
from fastforget.classifier.fingerprint import fingerprint
from fastforget.classifier.inputs import Inputs
from fastforget.codes.mnemonic_codes import MnemonicCodes
from fastforget.edits.advice import advice_of
from fastforget.edits.edit import write_edits
from fastforget.edits.receipt import Receipt
from fastforget.edits.shortfall import warn_of_shortfall
from fastforget.fisher.diagonal import FisherDiagonal

__all__ = ["one_shot"]

_LOG = logging.getLogger(__name__)

Floor = tuple[Inputs, Tensor, float]
Samples = tuple[Inputs, Tensor | None] | LabelledData


def one_shot(
    model: nn.Module,
    mnemonic_codes: MnemonicCodes | Tensor | None,
    cls: int | Sequence[int],
    *,
    level: Level | None = None,
    samples: Samples | None = None,
    rule: Literal["natural", "paper"] = "natural",
    rho: float = 0.003,
    widen: float = 3.0,
    depth: float = 6.0,
    spill: float = 2.0,
    reach: float = 16.0,
    output_row: bool | None = None,
    output_depth: float | None = None,
    lambda1: float = 1e-3,
    lambda2: float = 1.0,
    forgotten: int | Sequence[int] = (),
    parameters: Iterable[str] | None = None,
    fisher: FisherDiagonal | None = None,
    update: bool = False,
    floor: Floor | None = None,
    undo: bool = True,
    batch_size: int | None = None,
    progress: bool = False,
) -> Receipt:
    r"""Make a classifier forget one or several classes, in place, from their mnemonic codes alone.

    One forward and backward over all codes gives the diagonal Fisher of the forgotten classes, f_CF, and of the
    remaining ones, f_CR. One step follows from them by one of two rules:

    * ``rule="natural"``, ours: one natural-gradient step up the loss of the forgotten codes. It moves the share ``rho``
      of the parameters with the largest f_CF / f_CR, or more where these do not suffice. Its length comes from forward
      passes of the codes, see `fastforget.class_forgetting.natural_rule.take_natural_step`.
    * ``rule="paper"``: every parameter moves by its ratio, see
      `fastforget.class_forgetting.paper_rule.take_paper_step`.

    Both are deterministic and use nothing but the codes. How sure the model is of a code is given as log-odds,
    log(p / (1 - p)), in nats.

    Source: Yamashita, Yamada, Shibata, "One-shot machine unlearning with mnemonic code", ACML 2024. The natural rule
    deviates in direction, mask and step.

    Args:
        model: A classifier in eval mode that was trained with the codes; logits [N, C] from its forward.
        mnemonic_codes: `MnemonicCodes`, or a tensor [C, \*shape] or [C, M, \*shape], on any device. None for a model
            without codes; then ``samples`` must be given.
        cls: The class to forget, or several.
        level: How deep they are forgotten: "output", the output row alone; "body", the step as well; "features", the
            features as well. By default as deep as codes and samples allow.
        samples: A few real samples ``(inputs, targets)``, targets int64 [N], or in another form of samples with their
            classes, see `fastforget.classifier.data_forms.batches_of`; all are held in memory. Or ``(inputs, None)``
            where their classes are not known. With some of every class to forget, and of others, the features of the
            class are dispersed. Those of others are enough for the output row; then no sample or code of the class is
            needed. Samples without classes have those that the model takes them for: at the level "output" those that
            it takes for a class to forget are left out, and the level "features", where it is asked for, uses all.
        rule: "natural" or "paper".
        rho: Natural rule: share of the parameters that moves, (0, 1].
        widen: Natural rule: how many times as many are tried where these end more than a nat short of ``depth``. They
            move if that takes the codes more than a nat deeper. 1 for never.
        depth: Natural rule: how far beyond the decision boundary the forgotten codes end, nats of log-odds.
        spill: Natural rule: how much of its log-odds a remaining code may lose, nats. The step is shortened until none
            loses more. K classes, after n that were forgotten earlier, may take (sqrt(n + K) - sqrt(n)) times as much.
            With ``fisher`` but without ``update``, the remaining codes are not run, and nothing is shortened.
        reach: Natural rule: the longest step, in units of the one that would lead to ``depth`` to first order. Beyond
            it the codes no longer tell what a step does to the data.
        output_row: Also give the forgotten classes the output rows of classes that were never seen, see
            `fastforget.functional.output_row.unseen_rows`. The biases of the others take back the mean shift of
            their logits on the remaining codes. By default with the natural rule, if the model has such rows, or at
            least an output bias, among the parameters that may move.
        output_depth: How far beyond the decision boundary the output row puts the class's own samples on average, nats
            of log-odds. By default as far as the remaining classes are from samples of each other on average, see
            `fastforget.functional.output_row.usual_depth`: about where networks trained without the class have it.
        lambda1: Paper's rule: bound on the scale of a tensor's change.
        lambda2: Paper's rule: bound on the largest change in a tensor.
        forgotten: Classes forgotten earlier, to be given with every request after the first. The model need not know
            their codes, and nothing is done to keep them.
        parameters: Names of the parameters that may move. By default all of them, but with the natural rule not the
            tables of embeddings, see `fastforget.classifier.parameters.without_embedding_tables`.
        fisher: Natural rule: the Fisher sum over all codes, kept from before:
            ``fisher_diagonal(model, codes.inputs, codes.labels, reduction="sum")``. Then only the codes to forget are
            run, and f_CR is the difference. The sum belongs to the model as it is: every edit that is not reverted
            makes it outdated.
        update: Bring ``fisher`` up to date after the edit, for the next request. The forgotten codes are taken out of
            the sum, and what it says of the others is kept. These are run forward once for their losses. Without it,
            ``fisher`` is not changed.
        floor: ``(inputs, targets, accuracy)``: some validation samples, and the accuracy in [0, 1] on those of
            remaining classes below which the edit must not fall. The step is shortened until it holds. Like the codes
            they are moved to the model's device.
        undo: Keep the old values in the receipt, so that it can be reverted.
        batch_size: How many codes, or samples of ``floor``, are run at a time; by default all at once. For many
            classes: memory then holds the activations of so many, sums in the size of the parameters, the logits
            [N, C], and the codes, once more where those of some classes are left out. It changes nothing but rounding,
            which may swap parameters of nearly equal ratio in the mask.
        progress: Whether to show a bar while features are dispersed, in notebooks and where standard error is a
            terminal; needs tqdm.

    Returns:
        The receipt: what changed, fingerprints, timings, and the values to undo or repeat the edit.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument has a wrong value, for instance codes of the wrong shape or number of classes, a
            class out of range or repeated, all classes at once, a model in train mode, a frozen parameter, a ``fisher``
            of another model or of other codes.
        UnrecognisedCodesError: The model was not trained with these codes, or recognises no sample of a class to
            forget and ``level`` does not say what then; or it forgot the class already.
        NotImplementedError: The model is on a device without kernels.
        ForgettingError: No step forgets the class, or none within the floor.

    After any error the model is what it was before.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3)).eval()
        >>> codes = MnemonicCodes.generate(3, (16,), per_class=1)
        >>> _ = model[1].weight.data.copy_(codes.tensor.squeeze(1))  # knows its codes
        >>> receipt = one_shot(model, codes, 1)
        >>> model(codes.inputs).argmax(1)[1].item() == 1
        False
        >>> receipt.revert(model)
    """
    clock = Clock()
    with clock.phase("check"):
        check_optional_number("output_depth", output_depth)
        natural = NaturalSettings(rho=rho, widen=widen, depth=depth, spill=spill, reach=reach)
        paper = PaperSettings(lambda1=lambda1, lambda2=lambda2)
        request = read_request(
            model,
            mnemonic_codes,
            cls,
            forgotten,
            level=level,
            samples=samples,
            rule=rule,
            natural=natural,
            paper=paper,
            output_row=output_row,
            parameters=parameters,
            fisher=fisher,
            update=update,
            batch_size=batch_size,
        )
    with clock.phase("fingerprint"):
        before = fingerprint(request.model)
        codes_given = "" if request.codes is None else request.codes.given.fingerprint()
    codes, sensitivity = _examine(request, before, clock)
    with clock.phase("check"):
        validation = None if floor is None else check_remaining_floor(floor, request)
    trial_codes = codes if codes is None or request.runs_remaining else codes.to_forget
    step, ratios = _take_step(request, codes, trial_codes, sensitivity, clock)
    dispersed: dict[str, float] = {}
    if request.level == "features":
        with clock.phase("features"):
            step, dispersed = disperse_features(request, step, progress=progress)
    with clock.phase("output"):
        change = change_output(request, step.stage, codes, trial_codes, output_depth)
    with clock.phase("floor"):
        factor = 1.0
        if validation is not None:
            refit = partial(recalibrate, request=request, stage=step.stage, codes=codes, trial_codes=trial_codes)
            factor, change = back_off(step, change, trial_codes, validation, refit)
        evidence = {**_evidence(request, step.stage, codes, trial_codes, change), **dispersed}
        # Run before anything is written: a model may fail.
        logits = step.stage.outputs(codes.inputs) if request.update and codes is not None else None
    # May raise, where warnings are errors.
    warn_of_shortfall(
        evidence,
        change.reason,
        wanted=request.changes_output,
        advice=advice_of(rule, evidence, coded=codes is not None),
    )
    if request.level == "features" and request.samples is not None:
        warn_of_missing(request.samples, request.remaining)
    with clock.phase("write"):
        edits = step.stage.edits()
        write_edits(request.model, edits, old=False)
    with clock.phase("fingerprint"):
        after = fingerprint(request.model)
        if logits is not None and request.kept is not None and ratios is not None and codes is not None:
            kept_fisher.update(request.kept, ratios, codes, logits, after)
    receipt = Receipt(
        classes=request.classes,
        rule=rule,
        settings={**asdict(natural if request.natural else paper), "level": request.level},
        alpha=step.alpha * factor,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        before=before,
        after=after,
        total=sum(parameter.numel() for parameter in request.model.parameters()),
        seconds=clock.seconds(),
        evidence=evidence,
        kept_fisher=request.kept is not None,
        forgotten=request.forgotten,
        codes=codes_given,
        edits=edits,
    )
    _LOG.info("one_shot edited a model: %r", receipt)
    return receipt if undo else receipt.without_undo()


def _examine(request: ClassRequest, before: str, clock: Clock) -> tuple[CodeBatch | None, Sensitivity | None]:
    """Return the codes with their log-odds, and the Fisher if one forward can serve both."""
    if request.codes is not None and request.runs_codes_once:
        with clock.phase("fisher"):
            return recognise_and_measure(request.model, request.scope.examined, request.codes, request.classes)
    with clock.phase("check"):
        return _examine_alone(request, before), None


def _examine_alone(request: ClassRequest, before: str) -> CodeBatch | None:
    """Return the codes with their log-odds. A kept sum remembers them, so that the model need not be run."""
    if request.codes is None:
        return None
    if request.kept is None:
        return examine_codes(request.model, request.codes, request.classes)
    kept_fisher.check_model(request.kept, before)
    recalled = kept_fisher.recall_codes(request.kept, request.model, request.codes, request.classes)
    if not request.update:
        return recalled
    return examine_codes(request.model, request.codes, request.classes, complete=True)


def _take_step(
    request: ClassRequest,
    codes: CodeBatch | None,
    trial_codes: CodeBatch | None,
    sensitivity: Sensitivity | None,
    clock: Clock,
) -> tuple[Step, Ratios | None]:
    """Stage the step of the rule; also return what it knew of the parameters, unless each class had its own."""
    model, scope, settings = request.model, request.scope, request.settings
    if codes is None or trial_codes is None or request.codes is None or request.level == "output":
        return Step(Standstill(model, scope.staged, request.batch_size), 0.0), None
    if isinstance(settings, NaturalSettings) and request.kept is None and len(request.classes) > 1:
        with clock.phase("step"):
            step = take_steps_in_turn(model, scope.staged, codes, settings, moving=scope.moving)
            return step, None
    with clock.phase("fisher"):
        if sensitivity is not None:
            pass
        elif request.kept is None:
            sensitivity = measure_sensitivity(model, scope.examined, codes, natural=request.natural)
        else:
            sensitivity = kept_fisher.subtract_codes(request.kept, model, scope.examined, request.codes, codes)
    with clock.phase("step"):
        ratios = sensitivity.into_ratios()
        if isinstance(settings, PaperSettings):
            step = take_paper_step(model, scope.moving, ratios, trial_codes, settings)
        else:
            step = take_natural_step(model, scope.staged, ratios, trial_codes, settings, moving=scope.moving)
        return step, ratios


def _evidence(
    request: ClassRequest, stage: Stage, codes: CodeBatch | None, trial_codes: CodeBatch | None, change: OutputChange
) -> dict[str, float]:
    """Return what the receipt says of the edit."""
    own = None
    if request.samples is not None and request.samples.hold_all(request.classes):
        own = request.samples.of(request.classes)
    found = read_evidence(change, stage, own, codes, trial_codes)
    return {**found, **sample_counts(request.samples, request.classes)}
