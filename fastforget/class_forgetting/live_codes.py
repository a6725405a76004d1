"""The codes of the classes that a model still knows, checked against the model and the classes to forget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from os import PathLike

from torch import Tensor, nn

from fastforget.classifier.class_numbers import read_classes
from fastforget.classifier.devices import upload
from fastforget.classifier.fitting import DEVICE_ERRORS, SHAPE_ERRORS
from fastforget.classifier.inputs import Inputs, transform
from fastforget.classifier.running import logits_of, run_isolated
from fastforget.codes.mnemonic_codes import MnemonicCodes

__all__ = ["LiveCodes", "check_logits", "prepare_codes", "read_request_classes"]


@dataclass(frozen=True)
class LiveCodes:
    """The codes of the classes that a model knows: all but those forgotten earlier.

    Attributes:
        given: All codes, as they were given.
        codes: The same, in the dtype of the model, and where it is.
        classes: The classes that the model knows, in order.
        batch_size: How many codes are run at a time; None for all.
    """

    given: MnemonicCodes
    codes: MnemonicCodes
    classes: tuple[int, ...]
    batch_size: int | None = None

    @cached_property
    def inputs(self) -> Inputs:
        """What the model takes, leaves [N, *shape]."""
        if len(self.classes) == len(self.codes):
            return self.codes.inputs
        classes = upload(self.classes, self.codes.labels.device).long()
        return transform(lambda leaf: leaf.index_select(0, classes).flatten(0, 1), self.codes.stacked)

    @cached_property
    def labels(self) -> Tensor:
        """The class of every code, int64 [N]."""
        if len(self.classes) == len(self.codes):
            return self.codes.labels
        return upload(self.classes, self.codes.labels.device).long().repeat_interleave(self.codes.per_class)

    @property
    def forgotten(self) -> tuple[int, ...]:
        """The classes forgotten earlier, in order."""
        return tuple(c for c in range(len(self.codes)) if c not in self.classes)

    def __len__(self) -> int:
        """Return the number of codes, N."""
        return len(self.classes) * self.codes.per_class

    def without(self, classes: Sequence[int]) -> LiveCodes:
        """Return the codes of the other classes."""
        others = tuple(c for c in self.classes if c not in classes)
        return replace(self, classes=others) if classes else self

    def rows(self, cls: int) -> tuple[int, ...]:
        """Return the rows of ``inputs`` that are codes of a class."""
        start = self.classes.index(cls) * self.codes.per_class
        return tuple(range(start, start + self.codes.per_class))


def prepare_codes(
    model: nn.Module,
    given: MnemonicCodes | Tensor,
    cls: int | Sequence[int],
    forgotten: int | Sequence[int],
    like: Tensor,
    batch_size: int | None = None,
) -> tuple[LiveCodes, tuple[int, ...]]:
    """Bring the codes to the device and dtype of a parameter, and check the classes against them.

    Args:
        model: The eager module.
        given: The codes.
        cls: The classes to forget.
        forgotten: The classes forgotten earlier.
        like: The parameter.
        batch_size: How many codes are run at a time; None for all.

    Returns:
        The codes of the classes that were not forgotten earlier, and the classes to forget in order.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument has a wrong value.
    """
    if not isinstance(given, (MnemonicCodes, Tensor)):
        raise TypeError(
            f"`mnemonic_codes` must be MnemonicCodes or a tensor, got {type(given).__name__}{_remedy(given)}"
        )
    codes = given if isinstance(given, MnemonicCodes) else _from_tensor(model, given, like)
    classes, live = read_request_classes(cls, forgotten, len(codes))
    # Converted before it is sent: a device then gets no more than it needs, and no check waits for it.
    return LiveCodes(codes, codes.to(like.dtype).to(like.device), live, batch_size), classes


def read_request_classes(
    cls: int | Sequence[int], forgotten: int | Sequence[int], total: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Check the classes to forget against those forgotten earlier.

    Args:
        cls: The classes to forget.
        forgotten: The classes forgotten earlier.
        total: The number of classes, C.

    Returns:
        The classes to forget, and all classes that were not forgotten earlier, in order.

    Raises:
        TypeError: They are no integers.
        ValueError: They are none, all, out of range or named twice.
    """
    classes, earlier = read_classes("cls", cls, total), read_classes("forgotten", forgotten, total)
    if not classes:
        raise ValueError("`cls` must name at least one class, got none")
    if repeated := sorted(set(classes) & set(earlier)):
        raise ValueError(f"`cls` must not name classes that were forgotten earlier, got {repeated}")
    live = tuple(c for c in range(total) if c not in earlier)
    if len(classes) == len(live):
        raise ValueError(f"`cls` must leave at least one of {len(live)} classes, got all of them")
    return classes, live


def check_logits(logits: Tensor, codes: LiveCodes, samples: int | None = None) -> None:
    """Check that a model returned one logit per class of the codes.

    Args:
        logits: What it returned.
        codes: The codes.
        samples: How many of the codes it was given; all of them by default.

    Raises:
        ValueError: It did not.
    """
    classes, per_class = len(codes.codes), codes.codes.per_class
    if logits.shape != (samples or len(codes), classes):
        raise ValueError(
            f"`mnemonic_codes` must have one class per output of the model, got {classes} classes x "
            f"{per_class} codes, and outputs of shape {tuple(logits.shape)}"
        )


def _remedy(given: object) -> str:
    return "; read a file with MnemonicCodes.load" if isinstance(given, (str, PathLike)) else ""


def _from_tensor(model: nn.Module, tensor: Tensor, like: Tensor) -> MnemonicCodes:
    """Read a tensor as [C, *shape] or [C, M, *shape]."""
    if tensor.dim() < 2 or tensor.numel() == 0:
        raise ValueError(f"`mnemonic_codes` must be [C, *shape] or [C, M, *shape], got shape {tuple(tensor.shape)}")
    if tensor.device.type == "meta":
        raise ValueError("`mnemonic_codes` must hold values, got a tensor on the meta device")
    tensor = tensor.detach().to(device=like.device, dtype=like.dtype if tensor.is_floating_point() else tensor.dtype)
    return MnemonicCodes.from_tensors(tensor.unsqueeze(1) if _one_per_class(model, tensor) else tensor)


def _one_per_class(model: nn.Module, tensor: Tensor) -> bool:
    """Whether a tensor holds one code per class, [C, *shape], and not [C, M, *shape]."""
    if tensor.dim() == 2:
        return True
    # The shape alone cannot tell from here on: [10, 3, 32, 32] is one colour image per class, or three grey ones
    # without a dimension of channels. Only the model knows, so it is given the first row as one sample.
    try:
        return logits_of(run_isolated(model, tensor[:1])).dim() == 2
    except DEVICE_ERRORS:
        raise
    except SHAPE_ERRORS:
        return False
