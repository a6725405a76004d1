"""fisher_linear against its reference."""

import pytest
import torch
from asserts import ON_DEVICE, assert_accumulates, assert_close, assert_traceable
from cases import DTYPES, LAYOUTS, randn, results, sample_weights, sum_dtype
from torch import Tensor

from fastforget import ops
from fastforget.ops import reference

SIZES = [  # N, T, O, I
    (1, 1, 1, 1),
    (5, 1, 7, 9),
    (2000, 1, 13, 33),  # more samples than a panel holds
    (1, 2, 1, 1),
    (3, 7, 25, 65),
    (8, 16, 24, 64),
    (40, 64, 3, 5),  # several chunks
    (2, 1537, 5, 9),  # one position more than a panel holds
    (3, 6200, 13, 33),
    (3, 33, 136, 200),  # several of the largest tiles
    (2, 2100, 72, 80),  # long samples in tiles that are not small
    (0, 3, 4, 5),
    (3, 0, 4, 5),
    (3, 4, 0, 5),
    (3, 4, 5, 0),
]


def operands(n: int, t: int, o: int, i: int, dtype: torch.dtype = torch.float32, groups: int = 1) -> dict[str, Tensor]:
    return {
        "grad": randn(n, t, o, dtype=dtype, seed=1),
        "input": randn(n, t, i, dtype=dtype, seed=2),
        "weights": sample_weights(groups, n, dtype),
    }


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_equals_reference(size: tuple[int, ...], dtype: torch.dtype) -> None:
    assert_accumulates("fisher_linear", operands(*size, dtype, groups=2), results((2, *size[2:]), dtype))


@pytest.mark.parametrize("size", [(5, 20, 7, 9), (3, 33, 130, 140), (4, 8, 200, 65)])
@pytest.mark.parametrize("gradient", [False, True])
def test_tf32_of_operands_that_it_holds(size: tuple[int, ...], gradient: bool) -> None:
    """Eight significant bits survive the rounding, so that nothing is lost where a device has tensor cores."""
    case = operands(*size)
    case |= {name: case[name].bfloat16().float() for name in ("grad", "input")}
    case["tf32"] = True
    found = results((1, *size[2:]), torch.float32, gradient=gradient)
    expected = {name: value if value is None else value.double() for name, value in found.items()}
    reference.fisher_linear(**{k: v.double() for k, v in case.items() if k != "tf32"}, **expected)
    ops.fisher_linear(**case, **found)
    for name, value in expected.items():
        if value is not None:
            assert_close(found[name], value)


@pytest.mark.parametrize("positions", [1, 6, 2000])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("wanted", [(True, False), (False, True), (True, True)])
def test_groups_and_results(positions: int, groups: int, wanted: tuple[bool, bool]) -> None:
    found = results((groups, 7, 9), torch.float32, fisher=wanted[0], gradient=wanted[1])
    assert_accumulates("fisher_linear", operands(6, positions, 7, 9, groups=groups), found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("positions", [1, 5, 1600])
@pytest.mark.parametrize("of_grad", LAYOUTS)
@pytest.mark.parametrize("of_input", LAYOUTS)
def test_any_strides(of_grad: str, of_input: str, positions: int, dtype: torch.dtype) -> None:
    case = operands(4, positions, 11, 35, dtype)
    case |= {"grad": LAYOUTS[of_grad](case["grad"]), "input": LAYOUTS[of_input](case["input"])}
    assert_accumulates("fisher_linear", case, results((1, 11, 35), dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("of_grad", ["contiguous", "positions", "unaligned"])
@pytest.mark.parametrize("of_input", ["contiguous", "positions"])
def test_large_tiles(of_grad: str, of_input: str, gradient: bool, dtype: torch.dtype) -> None:
    """Tiles of 128 x 128, of 128 x 64 for both results, and layouts of either operand."""
    layouts = {
        "contiguous": torch.Tensor.contiguous,
        "positions": lambda t: t.mT.contiguous().mT,
        "unaligned": lambda t: torch.cat([t.reshape(-1)[:1], t.reshape(-1)])[1:].view(t.shape),
    }
    case = operands(3, 48, 136, 72, dtype)
    case |= {"grad": layouts[of_grad](case["grad"]), "input": layouts[of_input](case["input"])}
    case["tf32"] = False
    if dtype == torch.float32:  # as in test_tf32_of_operands_that_it_holds
        case |= {"grad": case["grad"].bfloat16().float(), "input": case["input"].bfloat16().float(), "tf32": True}
    found = results((1, 136, 72), dtype, gradient=gradient)
    expected = {name: value if value is None else value.double() for name, value in found.items()}
    exact = {k: v.double() for k, v in case.items() if k != "tf32"}
    reference.fisher_linear(**exact, **expected)
    ops.fisher_linear(**case, **found)
    for name, value in expected.items():
        if value is not None:
            assert_close(found[name], value)


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_expanded_operands(dim: int) -> None:
    case = operands(4, 5, 6, 7)
    for name in ("grad", "input"):
        case[name] = case[name].narrow(dim, 0, 1).expand(case[name].shape)
    assert_accumulates("fisher_linear", case, results((1, 6, 7), torch.float32))


@pytest.mark.parametrize("positions", [1, 5])
def test_adds_to_what_is_there(positions: int) -> None:
    found = {"fisher": randn(2, 6, 7, seed=3), "gradient": randn(2, 6, 7, seed=4)}
    assert_accumulates("fisher_linear", operands(4, positions, 6, 7, groups=2), found)


@pytest.mark.parametrize("wanted", [(True, False), (True, True)])
@pytest.mark.parametrize("positions", [1, 5, 30, 300])
@pytest.mark.parametrize("dtype", DTYPES)
def test_bias_in_the_same_pass(dtype: torch.dtype, positions: int, wanted: tuple[bool, bool]) -> None:
    found = results((2, 29, 40), dtype, fisher=wanted[0], gradient=wanted[1])
    found |= {f"bias_{key}": t for key, t in results((2, 29), dtype, fisher=wanted[0], gradient=wanted[1]).items()}
    assert_accumulates("fisher_linear", operands(70, positions, 29, 40, dtype, groups=2), found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", SIZES)
def test_overwrites(size: tuple[int, ...], dtype: torch.dtype) -> None:
    found = results((2, *size[2:]), dtype)
    for t in found.values():
        t.fill_(float("nan"))
    assert_accumulates("fisher_linear", operands(*size, dtype, groups=2) | {"overwrite": True}, found)


@pytest.mark.parametrize("positions", [1, 5])
def test_overwrites_the_group_of_no_sample(positions: int) -> None:
    case = operands(4, positions, 6, 7, groups=2) | {"overwrite": True}
    case["weights"][1] = 0
    found = {"fisher": torch.full((2, 6, 7), torch.nan), "gradient": torch.full((2, 6, 7), torch.nan)}
    assert_accumulates("fisher_linear", case, found)
    assert_accumulates("fisher_linear", case | {"weights": torch.zeros(2, 4)}, found)


def test_samples_without_weight_change_nothing() -> None:
    case = operands(4, 5, 6, 7)
    case["grad"][3], case["input"][3] = float("nan"), float("inf")  # the last sample's weight is 0
    found = results((1, 6, 7), torch.float32)
    ops.fisher_linear(**case, **found)
    assert found["fisher"].isfinite().all()
    all_zero = results((1, 6, 7), torch.float32)
    ops.fisher_linear(case["grad"], case["input"], torch.zeros(1, 4), **all_zero)
    assert not any(t.any() for t in all_zero.values())


def test_reference_is_what_autograd_gives() -> None:
    case = operands(4, 5, 6, 7, torch.float64, groups=2)
    found = results((2, 6, 7), torch.float64)
    reference.fisher_linear(**case, **found)
    expected = results((2, 6, 7), torch.float64)
    for n in range(4):
        weight = randn(6, 7, dtype=torch.float64).requires_grad_()
        output = torch.nn.functional.linear(case["input"][n : n + 1], weight)
        (c,) = torch.autograd.grad(output, weight, case["grad"][n : n + 1])
        for g in range(2):
            expected["fisher"][g] += case["weights"][g, n] * c**2
            expected["gradient"][g] += case["weights"][g, n] * c
    for name in expected:
        assert_close(found[name], expected[name], 1e-12)


@pytest.mark.parametrize("gradient", [False, True])
def test_opcheck_and_compile(gradient: bool) -> None:
    case, found = operands(3, 4, 5, 6), results((1, 5, 6), torch.float32, gradient=gradient)
    biases = results((1, 5), torch.float32, gradient=gradient)
    assert_traceable("fisher_linear", *case.values(), *found.values(), *biases.values(), False)
    assert_traceable("fisher_linear", *case.values(), *found.values(), None, None, True)


BAD = {
    "grad dim": ({"grad": randn(4, 6)}, r"`grad` must be 3-D, got shape \(4, 6\)"),
    "input dim": ({"input": randn(7)}, r"`input` must be 3-D, got shape \(7,\)"),
    "samples": ({"input": randn(3, 5, 7)}, r"`input` must have size 4 in dimension 0, got shape \(3, 5, 7\)"),
    "positions": ({"input": randn(4, 6, 7)}, r"`input` must have size 5 in dimension 1, got shape \(4, 6, 7\)"),
    "dtype": (
        {"grad": torch.zeros(4, 5, 6, dtype=torch.int64)},
        "`grad` must be float32, float64, bfloat16 or float16",
    ),
    "dtypes": ({"input": randn(4, 5, 7).double()}, "`input` must be Float, got Double"),
    "weights dim": ({"weights": torch.ones(4)}, r"`weights` must be 2-D, got shape \(4,\)"),
    "weights scalar": ({"weights": torch.tensor(1.0)}, r"`weights` must be 2-D, got shape \(\)"),
    "weights size": ({"weights": torch.ones(1, 5)}, r"`weights` must have size 4 in dimension 1, got shape \(1, 5\)"),
    "weights dtype": ({"weights": torch.ones(1, 4).double()}, "`weights` must be Float, got Double"),
    "weights strides": ({"weights": torch.ones(1, 8)[:, ::2]}, "`weights` must be contiguous"),
    "fisher shape": (
        {"fisher": torch.zeros(1, 7, 6)},
        r"`fisher` must have size 6 in dimension 1, got shape \(1, 7, 6\)",
    ),
    "fisher groups": ({"fisher": torch.zeros(2, 6, 7)}, r"`fisher` must have size 1 in dimension 0"),
    "fisher strides": ({"fisher": torch.zeros(1, 7, 6).mT}, "`fisher` must be contiguous"),
    "bias shape": ({"bias_fisher": torch.zeros(1, 7)}, r"`bias_fisher` must have size 6 in dimension 1"),
    "bias alone": ({"gradient": None, "bias_gradient": torch.zeros(1, 6)}, "must come with those of the weight"),
    "gradient dtype": ({"gradient": torch.zeros(1, 6, 7).half()}, "`gradient` must be Float, got Half"),
}


@pytest.mark.parametrize("fault", BAD)
def test_bad_arguments(fault: str) -> None:
    change, text = BAD[fault]
    case = {**operands(4, 5, 6, 7), **results((1, 6, 7), torch.float32), **change}
    with pytest.raises(RuntimeError, match=text):
        ops.fisher_linear(**case)


def test_half_sums_are_float32() -> None:
    found = results((1, 6, 7), torch.float16)
    assert found["fisher"].dtype == sum_dtype(torch.float16) == torch.float32


@pytest.mark.skipif(not ON_DEVICE, reason="the CPU's kernels count in 64 bits")
@pytest.mark.parametrize("name", ["grad", "input"])
def test_features_too_far_apart(name: str) -> None:
    case = operands(0, 2, 3, 4)
    features = case[name].shape[2]
    case[name] = case[name].as_strided((0, 2, features), (1, 1, 2**31 // (features - 1) + 1))
    with pytest.raises(
        RuntimeError, match=f"`{name}` must have less than 2\\^31 elements between the first and the last"
    ):
        ops.fisher_linear(**case, fisher=torch.zeros(1, 3, 4), gradient=None)


@pytest.mark.skipif(not ON_DEVICE, reason="the CPU's kernels count in 64 bits")
def test_too_many_positions() -> None:
    case = operands(0, 1, 3, 4)
    case |= {name: case[name].expand(0, 2**31, case[name].shape[2]) for name in ("grad", "input")}
    with pytest.raises(RuntimeError, match=r"`grad` must have less than 2\^31 positions in a sample, got 2147483648"):
        ops.fisher_linear(**case, fisher=torch.zeros(1, 3, 4), gradient=None)


@pytest.mark.skipif(not ON_DEVICE, reason="the CPU's kernels have no grid")
def test_too_many_groups() -> None:
    case = operands(0, 1, 1, 1) | {"weights": torch.zeros(2**16, 0)}
    with pytest.raises(RuntimeError, match="`weights` must have at most 65535 groups on a CUDA device, got 65536"):
        ops.fisher_linear(**case, fisher=torch.zeros(2**16, 1, 1), gradient=None)
