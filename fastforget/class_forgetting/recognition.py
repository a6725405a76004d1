"""Whether a model knows its codes: some that it does not recognise are left out, too many are a reason to refuse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fastforget.class_forgetting.code_batch import CodeBatch, inverse_doubts
from fastforget.class_forgetting.live_codes import LiveCodes, check_logits
from fastforget.classifier.devices import read_values
from fastforget.classifier.fitting import checked_logits
from fastforget.classifier.inputs import Inputs, tensors_of
from fastforget.classifier.losses import log_odds
from fastforget.classifier.running import gather_logits, logits_of
from fastforget.errors import UnrecognisedCodesError

__all__ = ["RecognisingLoss", "batch_recognised", "examine_codes"]

_RECOGNISED = 0.5  # the share of all codes that a model must recognise, beside one of each class to forget


def examine_codes(model: nn.Module, codes: LiveCodes, classes: Sequence[int], *, complete: bool = False) -> CodeBatch:
    """Run the model on the codes and keep those that tell how it knows its classes, see `batch_recognised`.

    Args:
        model: The eager module.
        codes: The codes, as `prepare_codes` returns them.
        classes: The classes to forget.
        complete: Keep all codes.

    Returns:
        The codes with their log-odds and logits.

    Raises:
        ValueError: The model does not take the codes, or its outputs do not fit.
        UnrecognisedCodesError: The model does not know them.
    """

    def run(inputs: Inputs) -> Tensor:
        logits = checked_logits(model, inputs, "mnemonic_codes")
        check_logits(logits, codes, len(tensors_of(inputs)[0]))
        return logits

    logits = gather_logits(run, codes.inputs, codes.batch_size)
    return batch_recognised(codes, classes, logits, complete=complete)


@dataclass(eq=False)
class RecognisingLoss:
    """The cross-entropy of codes, scaled as suits what the first forward says of them: that of the Fisher itself.

    Attributes:
        codes: The codes, as `prepare_codes` returns them.
        classes: The classes to forget.
        batch: What the first forward said, all codes among them whose loss is asked for.
        fault: Why there is no loss: the model does not know the codes, or returns something else.
    """

    codes: LiveCodes
    classes: Sequence[int]
    batch: CodeBatch | None = None
    fault: ValueError | None = None

    def __call__(self, outputs: Any, targets: Tensor) -> Tensor:
        """Return the loss of each sample, float64 [N].

        Raises:
            ValueError: The outputs do not fit, or some codes are to be left out; kept in ``fault``.
        """
        if self.batch is None:
            try:
                self.batch = self._recognise(logits_of(outputs).detach())
            except ValueError as error:
                self.fault = error
                raise
        return self.batch.loss(outputs, targets)

    def _recognise(self, logits: Tensor) -> CodeBatch:
        check_logits(logits, self.codes)
        batch = batch_recognised(self.codes, self.classes, logits)
        if batch.left_out:
            self.batch = batch
            raise ValueError(f"{batch.left_out} of the codes to forget must be left out")
        return batch


def batch_recognised(codes: LiveCodes, classes: Sequence[int], logits: Tensor, *, complete: bool = False) -> CodeBatch:
    """Return the codes as one batch, without those of the classes to forget that the model assigns to other classes.

    What such a code says of the parameters is not how the model knows its class: its gradient leads to the class, and
    outweighs those of all that are recognised. Of the remaining classes all codes are kept. One that is not recognised
    is near a boundary, as images are that a step must not move.

    Args:
        codes: The codes.
        classes: The classes to forget.
        logits: What the model returned for all codes, [N, C].
        complete: Keep all codes, for a sum over all of them. Those of the classes to forget must then all be
            recognised.

    Returns:
        The codes with their log-odds and logits.

    Raises:
        ValueError: The logits are not finite.
        UnrecognisedCodesError: The model does not know half of the codes, or none of a class to forget.
    """
    odds = log_odds(logits, codes.labels)
    rows = tuple(codes.rows(c) for c in classes)
    batch = CodeBatch(codes.inputs, codes.labels, odds, rows, logits=logits, batch_size=codes.batch_size)
    right = logits.argmax(1) == codes.labels
    groups = batch.group_weights * torch.stack([right, torch.ones_like(right)])
    (finite,), known, scales = read_values(torch.isfinite(logits).all(), right, inverse_doubts(odds, groups))
    if not finite:
        raise ValueError("`model` must give finite logits on the codes, got NaN or infinity")
    _check_known(codes, classes, [bool(code) for code in known], logits, complete=complete)
    missed = {row for row in batch.forget_rows if not known[row]}
    batch = replace(batch, log_scales=(scales[0], scales[1]), left_out=len(missed))
    return batch.only([row for row in range(len(known)) if row not in missed])


def _check_known(
    codes: LiveCodes, classes: Sequence[int], known: Sequence[bool], logits: Tensor, *, complete: bool
) -> None:
    """Raise UnrecognisedCodesError unless enough codes are recognised."""
    per_class = codes.codes.per_class
    numbers = {c: sum(known[row] for row in codes.rows(c)) for c in codes.classes}
    unknown = [c for c in classes if not numbers[c]]
    if unknown:
        _check_forgotten(codes, unknown, sum(known) / max(len(known) - len(unknown) * per_class, 1), logits)
    share = sum(known) / len(known)
    if share < _RECOGNISED or unknown:
        which = f", none of class {_listed(unknown)}" if unknown else ""
        raise UnrecognisedCodesError(
            f"`mnemonic_codes` must be known to the model, but it recognises {share:.0%} of them{which}. Train or "
            "fine-tune it with the codes (codes.embed), pass a few real images per class as codes "
            "(MnemonicCodes.from_tensors), or name the classes forgotten earlier (forgotten=)"
        )
    partly = [c for c in classes if numbers[c] < per_class]
    if complete and partly:
        found = ", ".join(f"{numbers[c]} of {per_class} of class {c}" for c in partly)
        raise UnrecognisedCodesError(
            "`mnemonic_codes` of the class to forget must all be known to the model with `fisher`, a sum over all "
            f"codes, but it recognises {found}. Leave `fisher` out: the recognised ones then suffice"
        )


def _check_forgotten(codes: LiveCodes, unknown: Sequence[int], of_others: float, logits: Tensor) -> None:
    """Raise UnrecognisedCodesError if classes seem to be forgotten: no code at all is assigned to them.

    Args:
        codes: The codes.
        unknown: Classes none of whose codes is recognised.
        of_others: The share of the codes of other classes that are.
        logits: Of all codes, [N, C].

    Raises:
        UnrecognisedCodesError: They do.
    """
    assigned = logits.argmax(1).unique().tolist()
    gone = [c for c in unknown if c not in assigned]
    if not gone or of_others < _RECOGNISED:
        return
    names, verb, them = ("class", "seems", "it") if len(gone) == 1 else ("classes", "seem", "them")
    raise UnrecognisedCodesError(
        f"`mnemonic_codes` must be known to the model, but {names} {_listed(gone)} {verb} to be forgotten already: "
        f"it assigns none of the {len(codes)} codes to {them}, and recognises {of_others:.0%} of those of other "
        f"classes. If so, nothing is left to do; name {them} in `forgotten` when others are to be forgotten. If the "
        "model was never shown these codes, train or fine-tune it with them (codes.embed), or pass a few real images "
        "per class as codes (MnemonicCodes.from_tensors)"
    )


def _listed(classes: Sequence[int]) -> str:
    return ", ".join(map(str, classes))
