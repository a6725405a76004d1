"""perturb, perturb_undo and perturb_write against their reference, and the bits that come back."""

import math
from typing import Any

import pytest
import torch
from asserts import assert_same_bits, assert_traceable, threads
from cases import DTYPES, randn
from torch import Tensor

from fastforget import ops, reference

SIZES = ((7, 9), (0,), (300,), (70_001,), (1,))


def case(k: int, dtype: torch.dtype = torch.float32, step_dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Every parameter element is distinct enough for a wrong place to show."""
    scores = [randn(*size, seed=i) for i, size in enumerate(SIZES)]
    return {
        "parameters": [randn(*size, seed=10 + i).to(dtype) for i, size in enumerate(SIZES)],
        "directions": [randn(*size, dtype=step_dtype, seed=20 + i) for i, size in enumerate(SIZES)],
        "mask": ops.select(scores, k)[0],
        "k": k,
        "alpha": 0.37,
    }


def cloned(values: list[Tensor]) -> list[Tensor]:
    return [value.clone() for value in values]


@pytest.mark.parametrize("k", [1, 5, 1000, 30_000, 70_365])
@pytest.mark.parametrize("step_dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dtype", DTYPES)
def test_equals_reference_and_comes_back(dtype: torch.dtype, step_dtype: torch.dtype, k: int) -> None:
    given = case(k, dtype, step_dtype)
    original, others = given["parameters"], cloned([*given["directions"], given["mask"]])
    expected = {**given, "parameters": cloned(original)}
    wanted = reference.perturb(**expected)
    for count in (1, 2):
        changed = {**given, "parameters": cloned(original)}
        with threads(count):
            old = ops.perturb(**changed)
            for a, b in zip((old, *changed["parameters"]), (wanted, *expected["parameters"]), strict=True):
                assert_same_bits(a, b)
            ops.perturb_undo(changed["parameters"], given["mask"], old)
        for a, b in zip(changed["parameters"], original, strict=True):
            assert_same_bits(a, b)
    for a, b in zip([*given["directions"], given["mask"]], others, strict=True):
        assert_same_bits(a, b)


def test_nothing_selected() -> None:
    given = {**case(1), "k": 0}
    given["mask"] = torch.zeros_like(given["mask"])
    before = cloned(given["parameters"])
    assert len(ops.perturb(**given)) == 0
    for a, b in zip(given["parameters"], before, strict=True):
        assert_same_bits(a, b)


@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_of_special_values_come_back(dtype: torch.dtype) -> None:
    special = torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan, -math.nan, 1e-8, 6e4], dtype=dtype)
    parameters, mask = [special.clone()], torch.tensor([0b11111111])
    old = ops.perturb(parameters, [torch.full((8,), 1e30)], mask, 8, 1e5)
    assert not torch.equal(parameters[0], special)
    ops.perturb_undo(parameters, mask, old)
    assert_same_bits(parameters[0], special)


@pytest.mark.parametrize("step_dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rounding_is_pytorch_s(dtype: torch.dtype, step_dtype: torch.dtype) -> None:
    """Every half value, the points halfway to the next, and their neighbours."""
    every = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
    every = every[every.isfinite()].sort().values.to(step_dtype)
    halfway = (every[1:] + every[:-1]) / 2
    values = [every, halfway, halfway.nextafter(every[1:]), halfway.nextafter(every[:-1])]
    steps = torch.cat([*values, torch.tensor([65519.0, 65520.0, 7e4, 3.4e38, math.inf, -math.inf], dtype=step_dtype)])
    parameters = [torch.zeros(len(steps), dtype=dtype)]
    mask, _ = ops.select([torch.ones(len(steps))], len(steps))
    ops.perturb(parameters, [steps], mask, len(steps), 1.0)
    assert_same_bits(parameters[0], (steps + 0.0).to(dtype))


@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("dtype", DTYPES)
def test_writes_other_values_in_place(dtype: torch.dtype, index_dtype: torch.dtype) -> None:
    parameters = [torch.arange(4, dtype=dtype), torch.arange(3, dtype=dtype)]
    storage = [parameter.data_ptr() for parameter in parameters]
    indices, values = torch.tensor([3, 0, 2], dtype=index_dtype), torch.tensor([7, 8, 9], dtype=dtype)
    ops.perturb_write(parameters, indices, torch.tensor([1, 2]), values)
    assert [parameter.tolist() for parameter in parameters] == [[0, 1, 2, 7], [8, 1, 9]]
    assert [parameter.data_ptr() for parameter in parameters] == storage


def test_opcheck_and_compile() -> None:
    given = case(1000)
    assert_traceable("perturb", *given.values())
    old = ops.perturb(**given)
    assert_traceable("perturb_undo", given["parameters"], given["mask"], old)
    indices, counts = ops.select_indices(given["mask"], given["parameters"], 1000)
    assert_traceable("perturb_write", given["parameters"], indices, counts, old)


def replaced(values: list[Tensor], last: Tensor) -> list[Tensor]:
    return [*values[:-1], last]


BAD = {
    "count": (
        lambda g: {"directions": g["directions"][:-1]},
        "`directions` must have one tensor per tensor of `parameters`, got 4 and 5",
    ),
    "sizes": (
        lambda g: {"directions": replaced(g["directions"], torch.zeros(2))},
        r"`directions` must have the shapes of `parameters`, got \(2,\) and \(1,\)",
    ),
    "direction dtype": (
        lambda g: {"directions": [d.half() for d in g["directions"]]},
        "`directions` must be float32 or float64, got Half",
    ),
    "mixed directions": (
        lambda g: {"directions": replaced(g["directions"], torch.zeros(1).double())},
        "`directions` must be Float, got Double",
    ),
    "no directions": (lambda _: {"directions": []}, "`directions` must not be empty"),
    "mixed": (
        lambda g: {"parameters": replaced(g["parameters"], torch.zeros(1).half())},
        "`parameters` must be Float, got Half",
    ),
    "int": (
        lambda g: {"parameters": [p.int() for p in g["parameters"]]},
        "`parameters` must be float32, float64, bfloat16 or float16, got Int",
    ),
    "strides": (
        lambda g: {"parameters": [g["parameters"][0].t().contiguous().t(), *g["parameters"][1:]]},
        "`parameters` must be contiguous",
    ),
    "mask size": (lambda g: {"mask": g["mask"][1:]}, "`mask` must have size 1101 in dimension 0"),
    "mask dtype": (lambda g: {"mask": g["mask"].double()}, "`mask` must be Long, got Double"),
    "mask end": (
        lambda g: {"mask": torch.full_like(g["mask"], -1)},
        "`mask` must not go beyond the end of a tensor",
    ),
}


@pytest.mark.parametrize("fault", BAD)
def test_bad_arguments_change_nothing(fault: str) -> None:
    change, text = BAD[fault]
    given = case(50)
    given |= change(given)
    before = cloned(given["parameters"])
    with pytest.raises(RuntimeError, match=text):
        ops.perturb(**given)
    for a, b in zip(given["parameters"], before, strict=True):
        assert_same_bits(a, b)


@pytest.mark.parametrize("k", [49, 51, 0])
def test_wrong_k_changes_nothing(k: int) -> None:
    given = case(50)
    before = cloned(given["parameters"])
    with pytest.raises(RuntimeError, match=f"`k` must be the number of selected elements, 50, got {k}"):
        ops.perturb(**{**given, "k": k})
    for a, b in zip(given["parameters"], before, strict=True):
        assert_same_bits(a, b)


def test_no_parameters() -> None:
    with pytest.raises(ValueError, match="`parameters` must not be empty"):
        ops.perturb([], [], torch.zeros(0, dtype=torch.int64), 0, 1.0)


UNDO_BAD = {
    "dim": (torch.zeros(1, 2), "`old` must be 1-D"),
    "dtype": (torch.zeros(2).double(), "`old` must be Float, got Double"),
    "size": (torch.zeros(3), "`old` must have size 2 in dimension 0"),
    "strides": (torch.zeros(4)[::2], "`old` must be contiguous"),
}


@pytest.mark.parametrize("fault", UNDO_BAD)
def test_bad_undo_changes_nothing(fault: str) -> None:
    old, text = UNDO_BAD[fault]
    parameter = torch.ones(4)
    with pytest.raises(RuntimeError, match=text):
        ops.perturb_undo([parameter], torch.tensor([0b101]), old)
    assert parameter.tolist() == [1, 1, 1, 1]


WRITE_BAD = {
    "indices dim": ({"indices": torch.zeros(1, 2, dtype=torch.int64)}, "`indices` must be 1-D"),
    "indices dtype": ({"indices": torch.zeros(2)}, "`indices` must be Int or Long, got Float"),
    "index too large": ({"indices": torch.tensor([0, 3])}, r"`indices` must lie in \[0, 3\), got 3"),
    "negative index": ({"indices": torch.tensor([-1, 2])}, r"`indices` must lie in \[0, 4\), got -1"),
    "too many": ({"counts": torch.tensor([2, 1])}, "`counts` must add up to 2"),
    "too few": ({"counts": torch.tensor([1, 0])}, "`counts` must add up to 2, got 1"),
    "negative count": ({"counts": torch.tensor([3, -1])}, "`counts` must add up to 2"),
    "counts size": ({"counts": torch.tensor([2])}, "`counts` must have size 2 in dimension 0"),
    "counts dtype": ({"counts": torch.tensor([1.0, 1.0])}, "`counts` must be Long, got Float"),
    "values size": ({"values": torch.zeros(3)}, "`values` must have size 2 in dimension 0"),
    "values dtype": ({"values": torch.zeros(2).double()}, "`parameters` must be Double, got Float"),
    "strides": ({"parameters": [torch.zeros(4, 2)[:, 0], torch.zeros(3)]}, "`parameters` must be contiguous"),
}


@pytest.mark.parametrize("fault", WRITE_BAD)
def test_bad_write_changes_nothing(fault: str) -> None:
    change, text = WRITE_BAD[fault]
    given = {
        "parameters": [torch.ones(4), torch.ones(3)],
        "indices": torch.tensor([0, 2]),
        "counts": torch.tensor([1, 1]),
        "values": torch.zeros(2),
    }
    before = cloned((given | change)["parameters"])
    with pytest.raises(RuntimeError, match=text):
        ops.perturb_write(**{**given, **change})
    for a, b in zip((given | change)["parameters"], before, strict=True):
        assert_same_bits(a, b)
