"""Mnemonic codes in a training of Lightning."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any, TypeAlias

from fastforget.classifier.arguments import FRACTION, check_number
from fastforget.classifier.data_forms import batches_of
from fastforget.codes.mnemonic_codes import MnemonicCodes

__all__ = ["EmbedCodes"]

if TYPE_CHECKING:
    _Callback: TypeAlias = object
    _MISSING = False
else:
    try:
        from lightning.pytorch import Callback as _Callback

        _MISSING = False
    except ModuleNotFoundError:  # said when one is made
        _Callback, _MISSING = object, True


class EmbedCodes(_Callback):
    """A callback of Lightning by which the network learns its codes: some samples of each batch become codes.

    ``Trainer(callbacks=[EmbedCodes(codes)])`` calls `MnemonicCodes.embed` on each training batch when it is on its
    device, before ``training_step``. Batches of validation, test and prediction stay as they are. The codes are in the
    batch, not in a loss of their own: so batch norms see them among the samples, and precision, accumulation of
    gradients and several devices need nothing of their own.

    A batch is a list [inputs, targets], as PyTorch makes of pairs, or a dict with ``labels`` or ``label``. Tuples
    cannot be changed and are refused: for them, put `CodesDataset` around the data set.

    Args:
        codes: The codes.
        rate: The share of the samples, t_mix in [0, 1].

    Raises:
        TypeError: An argument has the wrong type, or a batch has another form.
        ValueError: ``rate`` is out of range, or a batch does not fit the codes.
        ModuleNotFoundError: Lightning is not installed.
    """

    def __init__(self, codes: MnemonicCodes, *, rate: float = 0.3) -> None:
        if _MISSING:
            raise ModuleNotFoundError("`EmbedCodes` needs Lightning: pip install lightning")
        if not isinstance(codes, MnemonicCodes):
            raise TypeError(f"`codes` must be MnemonicCodes, got {type(codes).__name__}")
        check_number("rate", rate, FRACTION)
        super().__init__()
        self.codes: MnemonicCodes = codes
        self.rate: float = rate

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        """Replace samples of a batch by codes of their classes.

        Args:
            trainer: Of Lightning, like the others.
            pl_module: The network.
            batch: Changed in place: its inputs are replaced by new ones. Their values stay what they are.
            batch_idx: Its number.

        Raises:
            TypeError: The batch has another form.
        """
        if not isinstance(batch, (list, MutableMapping)):
            raise TypeError(
                f"a batch must be a list [inputs, targets] or a dict with `labels`, got a {type(batch).__name__}: put "
                "fastforget.integrations.CodesDataset around the data set instead"
            )
        batches: Any = [batch]
        ((inputs, targets),) = batches_of(batches, "batch")
        embedded = self.codes.embed(inputs, targets, self.rate)
        if isinstance(batch, list):
            batch[0] = embedded
        elif isinstance(embedded, dict):
            batch.update(embedded)
