"""fisher_affine against its reference."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from asserts import assert_accumulates, assert_close, assert_same_bits, assert_traceable
from cases import DTYPES, LAYOUTS, randn, sample_weights, sum_dtype
from torch import Tensor

from fastforget import ops
from fastforget.ops import reference

NAMES = ("scale_fisher", "scale_gradient", "shift_fisher", "shift_gradient")
SIZES = [  # N, A, P, B
    (1, 1, 1, 1),
    (5, 7, 33, 1),
    (3, 1, 700, 1),  # several blocks of parameters
    (3, 4, 9, 5),
    (3, 1, 9, 64),
    (2, 2, 3, 2001),
    (2, 3000, 5, 1),
    (4, 3, 1, 7),
    (0, 2, 3, 4),
    (2, 0, 3, 4),
    (2, 2, 0, 4),
    (2, 2, 3, 0),
]


def operands(size: tuple[int, ...], dtype: torch.dtype = torch.float32, groups: int = 1) -> dict[str, Any]:
    wide = sum_dtype(dtype)
    return {
        "grad": randn(*size, dtype=dtype, seed=1),
        "input": randn(*size, dtype=dtype, seed=2),
        "mean": randn(*size[:3], dtype=wide, seed=3),
        "rstd": randn(*size[:3], dtype=wide, seed=4).abs() + 0.5,
        "weights": sample_weights(groups, size[0], dtype),
    }


def results(size: tuple[int, ...], dtype: torch.dtype = torch.float32, groups: int = 1) -> dict[str, Tensor | None]:
    return {name: torch.zeros(groups, size[2], dtype=sum_dtype(dtype)) for name in NAMES}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_equals_reference(size: tuple[int, ...], dtype: torch.dtype) -> None:
    assert_accumulates("fisher_affine", operands(size, dtype, 2), results(size, dtype, 2))


@pytest.mark.parametrize("size", [(5, 7, 33, 1), (3, 4, 9, 5)])
@pytest.mark.parametrize("without", [("mean",), ("rstd",), ("mean", "rstd")])
def test_without_statistics(size: tuple[int, ...], without: tuple[str, ...]) -> None:
    assert_accumulates("fisher_affine", {**operands(size), **dict.fromkeys(without)}, results(size))


@pytest.mark.parametrize("size", [(5, 7, 33, 1), (3, 4, 9, 70)])
@pytest.mark.parametrize("dim", [0, 1, 2])
def test_expanded_statistics(size: tuple[int, ...], dim: int) -> None:
    case = operands(size)
    for name in ("mean", "rstd"):
        case[name] = case[name].narrow(dim, 0, 1).expand(size[:3])
    assert_accumulates("fisher_affine", case, results(size))


@pytest.mark.parametrize("size", [(5, 7, 33, 1), (3, 4, 9, 70)])
def test_shift_alone(size: tuple[int, ...]) -> None:
    case = {**operands(size), "input": None, "mean": None, "rstd": None}
    assert_accumulates("fisher_affine", case, {**results(size), "scale_fisher": None, "scale_gradient": None})


@pytest.mark.parametrize("size", [(5, 7, 33, 1), (3, 4, 9, 70)])
@pytest.mark.parametrize("wanted", NAMES)
def test_one_result_and_three_groups(size: tuple[int, ...], wanted: str) -> None:
    assert_accumulates("fisher_affine", operands(size, groups=3), {wanted: results(size, groups=3)[wanted]})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("size", [(5, 7, 33, 1), (3, 4, 9, 70)])
@pytest.mark.parametrize("of_grad", LAYOUTS)
@pytest.mark.parametrize("of_input", LAYOUTS)
def test_any_strides(of_grad: str, of_input: str, size: tuple[int, ...], dtype: torch.dtype) -> None:
    case = operands(size, dtype)
    case |= {"grad": LAYOUTS[of_grad](case["grad"]), "input": LAYOUTS[of_input](case["input"])}
    assert_accumulates("fisher_affine", case, results(size, dtype))


@pytest.mark.parametrize("dim", [0, 1, 2, 3])
def test_expanded_operands(dim: int) -> None:
    case = operands((3, 4, 9, 70))
    for name in ("grad", "input"):
        case[name] = case[name].narrow(dim, 0, 1).expand(case[name].shape)
    assert_accumulates("fisher_affine", case, results((3, 4, 9, 70)))


def test_adds_to_what_is_there() -> None:
    size = (3, 4, 9, 5)
    found = {name: randn(2, 9, seed=k) for k, name in enumerate(NAMES)}
    assert_accumulates("fisher_affine", operands(size, groups=2), found)


@pytest.mark.parametrize("size", [(4, 7, 33, 1), (4, 4, 9, 70)])
def test_samples_without_weight_change_nothing(size: tuple[int, ...]) -> None:
    case, found = operands(size), results(size)
    case["grad"][3], case["input"][3] = float("nan"), float("inf")
    ops.fisher_affine(**case, **found)
    assert all(t.isfinite().all() for t in found.values())


def test_reference_is_what_autograd_gives_for_layer_norm() -> None:
    x, grad, weights = (randn(*s, dtype=torch.float64, seed=k) for k, s in enumerate([(3, 4, 6), (3, 4, 6), (1, 3)]))
    variance, mean = torch.var_mean(x, 2, correction=0)
    found = results((3, 4, 6, 1), torch.float64)
    statistics = (t.unsqueeze(2).expand(3, 4, 6) for t in (mean, (variance + 1e-5).rsqrt()))
    reference.fisher_affine(grad.unsqueeze(3), x.unsqueeze(3), *statistics, weights, **found)
    expected = results((3, 4, 6, 1), torch.float64)
    for n in range(3):
        affine = [torch.ones(6, dtype=torch.float64, requires_grad=True) for _ in range(2)]
        grads = torch.autograd.grad(F.layer_norm(x[n], (6,), *affine), affine, grad[n])
        for name, c in zip(("scale", "shift"), grads, strict=True):
            expected[f"{name}_fisher"][0] += weights[0, n] * c**2
            expected[f"{name}_gradient"][0] += weights[0, n] * c
    for name in NAMES:
        assert_close(found[name], expected[name], 1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_widening_is_exact_for_every_half_value(dtype: torch.dtype) -> None:
    every = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
    every = every[every.isfinite()]
    found = torch.zeros(1, len(every))
    ops.fisher_affine(every.view(1, 1, -1, 1), None, None, None, torch.ones(1, 1), shift_gradient=found)
    assert_same_bits(found[0], every.float() + 0.0)


def test_opcheck_and_compile() -> None:
    size = (3, 4, 5, 6)
    assert_traceable("fisher_affine", *operands(size).values(), *results(size).values())


def test_opcheck_shift_alone() -> None:
    size = (3, 4, 5, 1)
    weights, found = torch.ones(1, 3), results(size)
    assert_traceable(
        "fisher_affine", operands(size)["grad"], None, None, None, weights, None, None, found["shift_fisher"], None
    )


BAD = {
    "grad dim": ({"grad": randn(3, 4, 9)}, r"`grad` must be 4-D, got shape \(3, 4, 9\)"),
    "grad dtype": ({"grad": torch.zeros(3, 4, 9, 5, dtype=torch.int32)}, "`grad` must be float32, float64"),
    "input dim": ({"input": randn(3, 4, 9)}, "`input` must be 4-D"),
    "input shape": ({"input": randn(3, 4, 9, 6)}, r"`input` must have size 5 in dimension 3, got shape \(3, 4, 9, 6\)"),
    "input dtype": ({"input": randn(3, 4, 9, 5).half()}, "`input` must be Float, got Half"),
    "no input": ({"input": None}, "`input` must be given for a scale"),
    "mean dim": ({"mean": randn(3, 4, 9, 1)}, "`mean` must be 3-D"),
    "mean dtype": ({"mean": randn(3, 4, 9).double()}, "`mean` must be Float, got Double"),
    "rstd shape": ({"rstd": randn(3, 4, 1)}, "`rstd` must have size 9 in dimension 2"),
    "weights": ({"weights": torch.ones(1, 4)}, "`weights` must have size 3 in dimension 1"),
    "result": ({"shift_fisher": torch.zeros(1, 8)}, "`shift_fisher` must have size 9 in dimension 1"),
    "result dtype": ({"scale_gradient": torch.zeros(1, 9).double()}, "`scale_gradient` must be Float, got Double"),
}


@pytest.mark.parametrize("fault", BAD)
def test_bad_arguments(fault: str) -> None:
    change, text = BAD[fault]
    case = {**operands((3, 4, 9, 5)), **results((3, 4, 9, 5)), **change}
    with pytest.raises(RuntimeError, match=text):
        ops.fisher_affine(**case)
