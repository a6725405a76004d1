"""Record what any code does to a model, as a receipt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import wraps
from itertools import chain
from typing import Concatenate, ParamSpec

import torch
from torch import Tensor, nn

from fastforget.classifier.class_numbers import read_classes
from fastforget.classifier.clock import Clock
from fastforget.classifier.compilation import eager
from fastforget.classifier.devices import check_device
from fastforget.edits.receipt import Receipt
from fastforget.edits.settings import read_settings

__all__ = ["Recording", "recorded", "recording"]

_Arguments = ParamSpec("_Arguments")


class Recording:
    """An edit that is being recorded.

    Args:
        model: The eager module that is edited.

    Attributes:
        model: The same.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._receipt: Receipt | None = None

    @property
    def receipt(self) -> Receipt:
        """What was done.

        Raises:
            RuntimeError: The block has not ended, or ended with an error.
        """
        if self._receipt is None:
            raise RuntimeError("`receipt` is there once the block of `recording` has ended without an error")
        return self._receipt

    def end(self, receipt: Receipt) -> None:
        """Keep what was done."""
        self._receipt = receipt


@contextmanager
def recording(
    model: nn.Module,
    rule: str,
    *,
    classes: int | Sequence[int] = (),
    settings: Mapping[str, float | str] | None = None,
) -> Iterator[Recording]:
    """Record what a block of code does to the parameters and buffers of a model.

    After an error in the block, or if an element became NaN or infinite, the values are put back. The block must leave
    the names, shapes and dtypes of parameters and buffers.

    Args:
        model: Any module. Of a compiled or replicated one, the module behind it is recorded.
        rule: What is done, for the record.
        classes: What is forgotten, for the record; none where samples are.
        settings: With which settings, for the record: numbers and texts.

    Yields:
        What holds the receipt after the block.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: The receipt cannot be made, see `Receipt.between`.
        NotImplementedError: A parameter or buffer is on a device without kernels.

    Example:
        >>> from torch import nn
        >>> model = nn.Linear(2, 2)
        >>> with recording(model, "bias away") as edit:
        ...     _ = nn.init.zeros_(edit.model.bias)
        >>> edit.receipt.changed
        2
        >>> edit.receipt.revert(model)
    """
    clock = Clock()
    source = eager(model)
    said, named = read_settings(rule, settings), read_classes("classes", classes)
    values = _tensors(source)
    for name, value in values.items():
        check_device(f"`{name}`", value)
    before = {name: value.detach().clone() for name, value in values.items()}
    record = Recording(source)
    try:
        yield record
        _check_architecture(values, _tensors(source))
        receipt = Receipt.between(before, source, rule=rule, classes=named, settings=said)
    except BaseException:
        with torch.no_grad():
            for now in (values, _tensors(source)):  # a parameter may have been replaced by another
                for name, value in now.items():
                    if name in before and _kind(value) == _kind(before[name]):
                        value.copy_(before[name])
        raise
    record.end(replace(receipt, seconds=clock.seconds()))


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return dict(chain(model.named_parameters(), model.named_buffers()))


def _kind(value: Tensor) -> tuple[tuple[int, ...], torch.dtype]:
    return tuple(value.shape), value.dtype


def _check_architecture(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> None:
    for name in [*before, *after]:
        was, now = (_kind(tensors[name]) if name in tensors else "none" for tensors in (before, after))
        if was != now:
            raise ValueError(
                f"the block of `recording` must leave the architecture, but `{name}` was {was} and is {now}"
            )


def recorded(
    method: Callable[Concatenate[nn.Module, _Arguments], object],
) -> Callable[Concatenate[nn.Module, _Arguments], Receipt]:
    """Have a function that edits a model in place return the receipt of what it did.

    Args:
        method: Takes the model first, for instance ``method(model, forget, remain, **settings)``. What it returns is
            dropped.

    Returns:
        The same function, but it returns a receipt, which has its name as ``rule`` and the keyword arguments that are
        numbers or texts as ``settings``. After an error the values of the model are put back. It raises what
        `recording` raises, too.

    Example:
        >>> from torch import nn
        >>> @recorded
        ... def shrink(model, forget, remain, *, by):
        ...     for parameter in model.parameters():
        ...         parameter.data *= by
        >>> model = nn.Linear(2, 2)
        >>> receipt = shrink(model, [], [], by=0.5)
        >>> receipt.rule, receipt.settings, receipt.changed
        ('shrink', {'by': 0.5}, 6)
        >>> receipt.revert(model)
    """

    @wraps(method)
    def edited(model: nn.Module, /, *args: _Arguments.args, **settings: _Arguments.kwargs) -> Receipt:
        said: dict[str, float | str] = {
            name: value
            for name, value in settings.items()
            if isinstance(value, (int, float, str)) and not isinstance(value, bool)
        }
        with recording(model, getattr(method, "__name__", type(method).__name__), settings=said) as edit:
            method(edit.model, *args, **settings)
        return edit.receipt

    return edited
