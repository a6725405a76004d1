"""Strategies that all fuzz tests share: sizes, memory layouts and weights of samples."""

import os
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any

import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from torch import Tensor

Draw = Callable[[st.SearchStrategy[Any]], Any]

CASES = int(os.environ.get("FASTFORGET_FUZZ_CASES", "2000"))
# By default the cases are the same each time. `make fuzz` gives their number, draws others and prints the seed.
SETTINGS = settings(
    derandomize="FASTFORGET_FUZZ_CASES" not in os.environ,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)

# One, odd and prime sizes, and sizes at and near the edges of register tiles: 4, 6, 12 rows; 8, 16, 32 columns.
SIZES = (1, 2, 3, 5, 7, 4, 6, 8, 11, 12, 13, 16, 17, 24, 31, 32, 33, 48)


class Case:
    """A drawn case. It is printed as the call that makes it, without default values."""

    def __repr__(self) -> str:
        given = [(field.name, getattr(self, field.name), field.default) for field in fields(self)]
        text = [f"{name}={value!r}" for name, value, default in given if default is MISSING or value != default]
        return f"{type(self).__name__}({', '.join(text)})"

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        """Print it for hypothesis, which would show every field."""
        printer.text(repr(self))


@dataclass(frozen=True, repr=False)
class Memory(Case):
    """The layout of a tensor in memory.

    Attributes:
        order: The dimensions, outermost in memory first.
        steps: The stride of each dimension, as a multiple of the dense one. 0 repeats one element (expanded). -1 takes
            the stride of the next dimension inside, so that windows overlap (``Tensor.unfold``).
        offset: Number of elements before the first.
    """

    order: tuple[int, ...]
    steps: tuple[int, ...]
    offset: int = 0

    def tensor(
        self,
        shape: Sequence[int],
        dtype: torch.dtype,
        generator: torch.Generator,
        change: Callable[[Tensor], Tensor] = torch.clone,
    ) -> Tensor:
        """Return a tensor of ``shape`` with normal values, or what ``change`` makes of them."""
        strides, inside, dense = [0] * len(shape), 1, 1
        for dim in reversed(self.order):
            strides[dim] = inside if self.steps[dim] < 0 else dense * self.steps[dim]
            inside = max(1, strides[dim])
            dense = max(dense, inside) * shape[dim]
        reach = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True) if size)
        values = torch.randn(self.offset + reach + 1, generator=generator, dtype=torch.float64).to(dtype)
        return change(values).as_strided(tuple(shape), strides, self.offset)


def integers(below: int) -> Callable[[Tensor], Tensor]:
    """Return a ``change`` for `Memory.tensor` that makes integers in [0, below)."""
    return lambda values: values.mul(1000).long().remainder(below)


@st.composite
def memories(draw: Draw, dims: int) -> Memory:
    """Draw a layout: row-major, channels-last, samples innermost or any order, with gaps, repeats and overlaps."""
    plain = tuple(range(dims))
    order = plain
    if dims > 1 and draw(st.booleans()):
        common = st.sampled_from([(0, *plain[2:], 1), (1, 0, *plain[2:]), plain[::-1]])
        order = draw(common | st.permutations(plain).map(tuple))
    if draw(st.integers(0, 2)) < 2:
        return Memory(order, (1,) * dims)
    steps = st.lists(st.sampled_from([1, 1, 2, 3, 0, -1]), min_size=dims, max_size=dims).map(tuple)
    return Memory(order, draw(steps), draw(st.integers(0, 3)))


def size(draw: Draw, most: int) -> int:
    """Draw a size up to ``most``."""
    return draw(st.sampled_from([s for s in SIZES if s <= max(most, 1)]))


def shape(draw: Draw, dims: int, most: int) -> tuple[int, ...]:
    """Draw sizes with a product up to ``most``."""
    sizes: list[int] = []
    for _ in range(dims):
        sizes.append(size(draw, most))
        most //= sizes[-1]
    return tuple(draw(st.permutations(sizes)))


def divisor(draw: Draw, number: int) -> int:
    return draw(st.sampled_from([d for d in range(1, number + 1) if number % d == 0]))


def windows(draw: Draw, space: Sequence[int], padding: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Draw kernel, stride, dilation and output sizes of a convolution over ``space``."""
    found = []
    for inside, pad in zip(space, padding, strict=True):
        stride, dilation = draw(st.integers(1, 4)), draw(st.integers(1, 3))
        kernel = draw(st.integers(1, min(5, (inside + 2 * pad - 1) // dilation + 1)))
        found.append((kernel, stride, dilation, (inside + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1))
    return tuple(zip(*found, strict=True))


@st.composite
def sample_weights(draw: Draw, samples: int, groups: int, values: Sequence[float]) -> tuple[tuple[float, ...], ...]:
    """Draw weights [G][N]."""
    row = st.lists(st.sampled_from(values), min_size=samples, max_size=samples).map(tuple)
    return tuple(draw(st.lists(row, min_size=groups, max_size=groups)))
