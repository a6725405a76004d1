"""Mnemonic codes in a data set: every library that trains on one learns them."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from fastforget.classifier.arguments import FRACTION, check_number
from fastforget.classifier.inputs import describe_structure, plain
from fastforget.codes.mnemonic_codes import MnemonicCodes

__all__ = ["CodesDataset"]

_LABELS = ("labels", "label")


class CodesDataset(Dataset[Any]):
    """A training set in which each sample is a code of its class with probability ``rate``, drawn at every access.

    It is `MnemonicCodes.embed` for programs that make the batches themselves, such as the Trainer of transformers. A
    collator around theirs would not do: that Trainer evaluates through the same collator, and would measure the
    accuracy on codes. Codes are replaced before samples are padded, so that codes of text may have another length than
    the samples.

    The draws are those of PyTorch's default random state in the process that reads the sample. Libraries seed it.

    Args:
        dataset: Has a length, and gives a sample for each index: a pair (inputs, class), or a mapping with ``labels``
            or ``label``, all other items of which are inputs of the model. Inputs are tensors, arrays or lists, as the
            model is to see them: the codes come after augmentation and normalisation.
        codes: Their names must be those of the inputs where samples are mappings, see `MnemonicCodes.generate`.
        rate: The probability, t_mix in [0, 1].

    Raises:
        TypeError: An argument has the wrong type, or the first sample does not fit the codes.
        ValueError: A value or a shape is wrong. A later sample that does not fit raises the same when it is read.

    Example:
        >>> codes = MnemonicCodes.generate(3, {"pixel_values": (1, 8, 8)})
        >>> samples = [{"pixel_values": torch.zeros(1, 8, 8), "labels": cls} for cls in (0, 1, 2)]
        >>> sample = CodesDataset(samples, codes, rate=1.0)[2]
        >>> sample["labels"], bool((codes.stacked["pixel_values"] == sample["pixel_values"])[2].flatten(1).all(1).any())
        (2, True)
    """

    def __init__(self, dataset: Any, codes: MnemonicCodes, *, rate: float = 0.3) -> None:
        if not isinstance(codes, MnemonicCodes):
            raise TypeError(f"`codes` must be MnemonicCodes, got {type(codes).__name__}")
        check_number("rate", rate, FRACTION)
        _check_dataset(dataset)
        self.dataset: Any = dataset
        self.codes: MnemonicCodes = codes.to("cpu")
        self.rate: float = rate
        self._with_code(dataset[0], 0)  # what does not fit is named before the training

    def __len__(self) -> int:
        """Return how many samples there are."""
        return len(self.dataset)

    def __getitem__(self, index: Any) -> Any:
        """Return a sample, or a code of its class in its form."""
        sample = self.dataset[index]
        # Both draws are always made, so the random stream advances alike whatever the rate is.
        chosen, which = torch.rand((), device="cpu"), torch.randint(self.codes.per_class, (), device="cpu")
        return self._with_code(sample, int(which)) if chosen < self.rate else sample

    def _with_code(self, sample: Any, which: int) -> Any:
        """Return a sample with a code of its class in place of its inputs."""
        if isinstance(sample, Mapping):
            found = [key for key in _LABELS if key in sample]
            if len(found) != 1:
                raise ValueError(f"samples of `dataset` must have either `labels` or `label`, got {list(sample)}")
            inputs = {key: value for key, value in sample.items() if key != found[0]}
            return {**self._code_like(inputs, self._class(sample[found[0]]), which), found[0]: sample[found[0]]}
        if not isinstance(sample, (tuple, list)) or len(sample) != 2:
            raise TypeError(
                f"samples of `dataset` must be pairs (inputs, class) or mappings, got {type(sample).__name__}"
            )
        return self._code_like(sample[0], self._class(sample[1]), which), sample[1]

    def _class(self, label: Any) -> int:
        value = label.item() if isinstance(label, Tensor) and label.dim() == 0 else label
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
            raise TypeError(f"the class of a sample must be one integer, got {label!r}")
        if not 0 <= value < len(self.codes):
            raise ValueError(f"the class of a sample must be in [0, {len(self.codes)}), got {int(value)}")
        return int(value)

    def _code_like(self, inputs: Any, cls: int, which: int) -> Any:
        """Return a code in the structure of inputs, each part in the form that it has there."""
        stacked = self.codes.stacked
        if isinstance(stacked, Tensor):
            return _in_form_of(inputs, stacked[cls, which])
        found, expected = describe_structure(plain(inputs)), describe_structure(stacked)
        if found != expected:
            raise ValueError(f"inputs in `dataset` must be {expected}, as the codes are, got {found}")
        if isinstance(stacked, dict):
            return {name: _in_form_of(inputs[name], pool[cls, which]) for name, pool in stacked.items()}
        return tuple(_in_form_of(part, pool[cls, which]) for part, pool in zip(inputs, stacked, strict=True))


def _check_dataset(dataset: object) -> None:
    by_index = hasattr(dataset, "__getitem__") and not isinstance(dataset, IterableDataset)
    if not isinstance(dataset, Sized) or not by_index:
        raise TypeError(
            f"`dataset` must have a length and give samples by index, got {type(dataset).__name__}; in batches of "
            "a stream, `codes.embed` replaces samples"
        )
    if not len(dataset):
        raise ValueError("`dataset` must hold at least one sample, got none")


def _in_form_of(value: Any, code: Tensor) -> Any:
    """Return a copy of a code as a tensor, an array or a list, whichever an input is."""
    if not isinstance(value, (Tensor, np.ndarray, list)):
        raise TypeError(
            f"inputs in `dataset` must be tensors, arrays or lists, got {type(value).__name__}: codes come after the "
            "transforms"
        )
    shape = tuple(np.shape(value))
    real = value.is_floating_point() if isinstance(value, Tensor) else np.asarray(value).dtype.kind == "f"
    if real != code.is_floating_point():
        raise TypeError(f"inputs in `dataset` must be of the codes' kind ({code.dtype}), got other numbers")
    if len(shape) != code.dim() or (real and shape != code.shape):  # tokens may have another length
        raise ValueError(f"inputs in `dataset` must have the shape of the codes, {tuple(code.shape)}, got {shape}")
    if isinstance(value, Tensor):
        return code.to(value.device, value.dtype, copy=True)
    return code.tolist() if isinstance(value, list) else code.numpy().astype(value.dtype)
