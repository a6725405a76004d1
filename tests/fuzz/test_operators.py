"""The Fisher operators agree with their float64 reference on random sizes, strides and weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from asserts import TOLERANCE
from cases import sum_dtype
from fuzz.draws import (
    CASES,
    SETTINGS,
    Case,
    Draw,
    Memory,
    divisor,
    integers,
    memories,
    sample_weights,
    shape,
    size,
    windows,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastforget import ops
from fastforget.ops import reference

MOST = 1500  # elements of one sample


@dataclass(frozen=True, repr=False)
class Call(Case):
    """A call of an operator.

    Attributes:
        operator: The name of the operator.
        shapes: The shapes of the operands that hold values, [N, ...].
        memories: The layouts of these operands.
        results: The shapes of the results that are computed, [G, ...].
        terms: The number of products in the sum that is squared.
        weights: Weights [G][N] of any sign.
        settings: The other arguments.
        dtype: The type of ``grad`` and ``input``.
        seed: The seed of all values.
    """

    operator: str
    shapes: dict[str, tuple[int, ...]]
    memories: dict[str, Memory]
    results: dict[str, tuple[int, ...]]
    terms: int
    weights: tuple[tuple[float, ...], ...]
    settings: dict[str, Any]
    dtype: str = "float32"
    seed: int = 0

    def operands(self) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(self.seed)
        dtype = getattr(torch, self.dtype)
        wide = sum_dtype(dtype)
        tensors = {
            name: self.memories[name].tensor(sizes, wide if name in ("mean", "rstd") else dtype, generator)
            for name, sizes in self.shapes.items()
        }
        if self.operator == "fisher_embedding":
            _, vocabulary, _ = next(iter(self.results.values()))
            tensors["tokens"] = integers(vocabulary)(tensors["tokens"].double()).contiguous()
        return {**tensors, "weights": torch.tensor(self.weights, dtype=wide), **self.settings}

    def started(self) -> dict[str, Tensor]:
        """Return results to add to. They are not zero, so that overwriting them is noticed."""
        generator = torch.Generator().manual_seed(self.seed + 1)
        dtype = sum_dtype(getattr(torch, self.dtype))
        return {name: torch.randn(sizes, generator=generator, dtype=dtype) for name, sizes in self.results.items()}


def magnitudes(operands: Mapping[str, Any]) -> dict[str, Any]:
    """Return operands for the same sums without cancellation: absolute values, and nothing subtracted."""
    positive = {k: v.abs() if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in operands.items()}
    return positive if positive.get("mean") is None else {**positive, "mean": -positive["mean"]}


def widened(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in values.items()}


def arguments(call: Call, results: Mapping[str, Tensor]) -> dict[str, Tensor | None]:
    """Return the results by name, and None for required results that are not computed."""
    return {**results} if call.operator == "fisher_affine" else {"fisher": None, "gradient": None, **results}


def check(call: Call) -> None:
    """Check each element to 1e-5 (1e-12 in float64) of the same sum over absolute values, with which rounding grows.

    If eps times the number of terms is more, that counts: equal terms, added one by one, round alike.
    """
    operands, found = call.operands(), call.started()
    expected = widened(found)
    scales = {name: value.abs() for name, value in expected.items()}
    getattr(ops, call.operator)(**operands, **arguments(call, found))
    getattr(reference, call.operator)(**widened(operands), **arguments(call, expected))
    getattr(reference, call.operator)(**magnitudes(widened(operands)), **arguments(call, scales))
    for name, value in expected.items():
        error = (found[name] - value).abs()
        tolerance = max(TOLERANCE[operands["grad"].dtype], call.terms * torch.finfo(found[name].dtype).eps)
        wrong = ~(error <= tolerance * scales[name])
        assert not wrong.any(), (
            f"{name}: {int(wrong.sum())} of {wrong.numel()} wrong, by up to {float(error.max()):.1e}"
        )


def _linear(draw: Draw, samples: int) -> dict[str, Any]:
    long = draw(st.integers(0, 24)) == 24
    positions = draw(st.sampled_from([1535, 1536, 1537, 3073])) if long else size(draw, 48)
    out, into = (draw(st.integers(0, 5)) for _ in "OI") if long else (size(draw, 48), size(draw, MOST // positions))
    shapes = {"grad": (samples, positions, out), "input": (samples, positions, into)}
    return {"operator": "fisher_linear", "shapes": shapes, "settings": {}, "parameter": (out, into), "terms": positions}


def _convolution(draw: Draw, samples: int) -> dict[str, Any]:
    space = shape(draw, draw(st.integers(1, 3)), 200)
    padding = tuple(draw(st.integers(0, 3)) for _ in space)
    kernel, stride, dilation, outside = windows(draw, space, padding)
    channels = size(draw, MOST // prod(space))
    groups = divisor(draw, channels)
    out = groups * size(draw, MOST // (prod(outside) * groups))
    return {
        "operator": "fisher_convolution",
        "shapes": {"grad": (samples, out, *outside), "input": (samples, channels, *space)},
        "settings": {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups},
        "parameter": (out, channels // groups, *kernel),
        "terms": prod(outside),
    }


def _affine(draw: Draw, samples: int) -> dict[str, Any]:
    outer, width, inner = shape(draw, 3, MOST)
    if draw(st.booleans()):  # lengths near those of blocks and of several vectors
        edge = draw(st.sampled_from([31, 33, 63, 64, 65, 129, 255, 257, 513]))
        few = draw(st.integers(1, 3))
        outer, width, inner = draw(st.sampled_from([(1, few, edge), (few, 1, edge), (few, edge, 1), (edge, few, 1)]))
    sizes = (samples, outer, width, inner)
    shapes = {"grad": sizes, "input": sizes}
    shapes |= {name: sizes[:3] for name in ("mean", "rstd") if draw(st.booleans())}
    settings = {name: None for name in ("mean", "rstd") if name not in shapes}
    return {
        "operator": "fisher_affine",
        "shapes": shapes,
        "settings": settings,
        "parameter": (width,),
        "terms": outer * inner,
    }


def _embedding(draw: Draw, samples: int) -> dict[str, Any]:
    positions, vocabulary = size(draw, 48), size(draw, 13)
    width = size(draw, MOST // positions)
    shapes = {"grad": (samples, positions, width), "tokens": (samples, positions)}
    settings = {"padding_idx": draw(st.integers(-1, vocabulary - 1))}
    return {
        "operator": "fisher_embedding",
        "shapes": shapes,
        "settings": settings,
        "parameter": (vocabulary, width),
        "terms": positions,
    }


@st.composite
def calls(draw: Draw) -> Call:
    samples, groups = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    drawn = draw(st.sampled_from([_linear, _convolution, _affine, _embedding]))(draw, samples)
    parameter = (groups, *drawn.pop("parameter"))
    names = ["fisher", "gradient"]
    if drawn["operator"] == "fisher_affine":
        names = ["scale_fisher", "scale_gradient", "shift_fisher", "shift_gradient"]
    wanted = draw(st.lists(st.sampled_from(names), min_size=1, max_size=len(names), unique=True))
    return Call(
        **drawn,
        memories={name: draw(memories(len(sizes))) for name, sizes in drawn["shapes"].items()},
        results=dict.fromkeys(wanted, parameter),
        weights=draw(sample_weights(samples, groups, (1.0, 0.0, 0.5, -2.0))),
        dtype=draw(st.sampled_from(["float32", "float32", "float64", "bfloat16", "float16"])),
        seed=draw(st.integers(0, 2**16)),
    )


@settings(SETTINGS, max_examples=CASES // 2)
@given(calls())
def test_operators(call: Call) -> None:
    check(call)
