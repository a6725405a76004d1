"""What packages of AOTInductor take: compiled for one memory layout, they would read any other as if it were that."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fastforget.classifier.inputs import Inputs

__all__ = ["ExpectedInputs", "ExpectedTensor", "fixed_sizes"]


@dataclass(frozen=True)
class ExpectedTensor:
    """A tensor among the inputs that a package takes.

    Attributes:
        dtype: That it must have.
        device: That it must be on.
        order: Its dimensions, the innermost in memory first.
        sizes: Of the dimensions whose sizes are fixed.
    """

    dtype: torch.dtype
    device: torch.device
    order: tuple[int, ...]
    sizes: Mapping[int, int]

    @classmethod
    def like(cls, example: Tensor, sizes: Mapping[int, int]) -> ExpectedTensor:
        """Return what a tensor must be to be like the example, which must be dense."""
        # Of two dimensions with the same stride, the inner one has size 1.
        keys = {dim: (example.stride(dim), example.shape[dim] != 1, -dim) for dim in range(example.ndim)}
        return cls(example.dtype, example.device, tuple(sorted(keys, key=keys.__getitem__)), sizes)

    def lay_out(self, value: Any, name: str) -> Tensor:
        """Return the tensor in the layout that is expected, itself if it has that.

        Args:
            value: The tensor.
            name: What errors call it.

        Returns:
            A tensor of the same values.

        Raises:
            TypeError: It is no tensor or of another type.
            ValueError: It is on another device, or a size that is fixed differs.
        """
        if not isinstance(value, Tensor) or value.dtype != self.dtype:
            given = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"{name} must be a tensor of {self.dtype}, got {given}")
        if value.device != self.device:
            raise ValueError(f"{name} must be on {self.device}, got {value.device}")
        wrong = [dim for dim, size in self.sizes.items() if dim >= value.ndim or value.shape[dim] != size]
        if value.ndim != len(self.order) or wrong:
            sizes = [self.sizes.get(dim, "any") for dim in range(len(self.order))]
            raise ValueError(f"{name} must have shape ({', '.join(map(str, sizes))}), got {tuple(value.shape)}")
        strides, stride = [0] * value.ndim, 1
        for dim in self.order:
            strides[dim] = stride
            stride *= max(value.shape[dim], 1)
        # Strides of dimensions of size 1 count as well: operators choose a memory format by them.
        if value.stride() == tuple(strides):
            return value
        return torch.empty_strided(value.shape, strides, dtype=value.dtype, device=value.device).copy_(value.detach())


class ExpectedInputs:
    """All inputs that a package takes.

    Args:
        example: Inputs that the package was made for, in their memory layout.
        names: Of those that are given by name, as the package has them in order.
        sizes: As `fixed_sizes` returns them.

    Raises:
        ValueError: The example has inputs of other names.
    """

    def __init__(self, example: Inputs, names: Sequence[str], sizes: Mapping[int, Mapping[int, int]]) -> None:
        self._names = list(names)
        given: tuple[Any, ...] = () if isinstance(example, dict) else tuple(example)
        args = (example,) if isinstance(example, Tensor) else given
        leaves, self._structure = self._flatten(args, example if isinstance(example, dict) else {})
        self._leaves: list[Any] = []
        count = 0  # of tensors, which alone the package numbers
        for leaf in leaves:
            is_tensor = isinstance(leaf, Tensor)
            self._leaves.append(ExpectedTensor.like(leaf, sizes.get(count, {})) if is_tensor else leaf)
            count += is_tensor

    def lay_out(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the inputs of a call in the layout that is expected.

        Args:
            args: In order.
            kwargs: By name.

        Returns:
            Both.

        Raises:
            TypeError: A tensor has another type.
            ValueError: The inputs are not built like the example, a tensor has another shape, or a value differs that
                is no tensor and thus part of the package.
        """
        leaves, structure = self._flatten(args, kwargs)
        if structure != self._structure:
            raise ValueError(
                f"inputs must be built like `example`, got {len(args)} in order and {list(kwargs)} by name"
            )
        laid_out = []
        for number, (leaf, expected) in enumerate(zip(leaves, self._leaves, strict=True)):
            if isinstance(expected, ExpectedTensor):
                laid_out.append(expected.lay_out(leaf, f"input {number}"))
            elif isinstance(leaf, Tensor) or leaf != expected:
                raise ValueError(f"input {number} must be {expected!r}, which is part of the package, got {leaf!r}")
            else:
                laid_out.append(leaf)
        arguments: tuple[tuple[Any, ...], dict[str, Any]] = pytree.tree_unflatten(laid_out, structure)
        return arguments

    def _flatten(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[Any], pytree.TreeSpec]:
        if kwargs.keys() != set(self._names):
            raise ValueError(f"inputs by name must be {self._names}, got {list(kwargs)}")
        return pytree.tree_flatten((args, {name: kwargs[name] for name in self._names}))


def fixed_sizes(source: str) -> dict[int, dict[int, int]]:
    """Read from the code of a package for which sizes of which inputs it was compiled.

    The code has checks of its own, which say them. But only an environment variable turns those on, for the whole
    process, and their bounds are narrower than what works.

    Args:
        source: The generated code.

    Returns:
        The sizes, by the number of the tensor and the dimension.
    """
    sizes: dict[int, dict[int, int]] = {}
    pattern = r'input_handles\[(\d+)\]: unmatched dim value at (\d+), "\s*<< "expected: (\d+),'
    for number, dim, size in re.findall(pattern, source):
        sizes.setdefault(int(number), {})[int(dim)] = int(size)
    return sizes
