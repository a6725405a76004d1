"""perturb, perturb_undo and perturb_write against their reference, and the bits that come back."""

import math
from typing import Any

import pytest
import torch
from asserts import ON_DEVICE, assert_same_bits, assert_traceable, by_fault, reads_data, threads
from cases import DTYPES, randn
from torch import Tensor

from fastforget import ops
from fastforget.ops import reference

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


def test_many_tensors_at_odd_addresses() -> None:
    """More than fit into one launch on a device, and few of them aligned."""
    sizes = [1 + i * 37 % 301 for i in range(150)]
    flat, steps = randn(sum(sizes), seed=1), randn(sum(sizes), seed=2)
    scores, directions = list(randn(sum(sizes)).split(sizes)), list(steps.split(sizes))
    for k in (1, 2000, sum(sizes)):
        mask, _ = ops.select(scores, k)
        assert_same_bits(mask, reference.select(scores, k)[0])
        changed, expected = flat.clone(), flat.clone()
        given, wanted = list(changed.split(sizes)), list(expected.split(sizes))
        old = ops.perturb(given, directions, mask, k, 0.3)
        assert_same_bits(old, reference.perturb(wanted, directions, mask, k, 0.3))
        assert_same_bits(changed, expected)
        assert_same_bits(ops.fingerprint(given), reference.fingerprint(given))
        indices, counts = ops.select_indices(mask, given, k)
        for a, b in zip((indices, counts), reference.select_indices(mask, given, k), strict=True):
            assert_same_bits(a, b)
        marked = torch.cat(ops.select_mask(mask, given))
        assert_same_bits(flat[marked], old)
        ops.perturb_write(given, indices, counts, old)
        assert_same_bits(changed, flat)
        ops.perturb_write(given, indices, counts, expected[marked])
        assert_same_bits(changed, expected)
        ops.perturb_undo(given, mask, old)
        assert_same_bits(changed, flat)


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


@pytest.mark.parametrize("fault", by_fault(BAD, "mask end"))
def test_bad_arguments_change_nothing(fault: str) -> None:
    change, text = BAD[fault]
    given = case(50)
    given |= change(given)
    before = cloned(given["parameters"])
    with pytest.raises(RuntimeError, match=text):
        ops.perturb(**given)
    for a, b in zip(given["parameters"], before, strict=True):
        assert_same_bits(a, b)


@reads_data
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


@pytest.mark.parametrize("fault", by_fault(UNDO_BAD, "size"))
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


IN_DATA = ("index too large", "negative index", "too many", "too few", "negative count")


@pytest.mark.parametrize("fault", by_fault(WRITE_BAD, *IN_DATA))
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


on_device = pytest.mark.skipif(not ON_DEVICE, reason="on the CPU these are errors")


@on_device
@pytest.mark.parametrize("k", [0, 49, 51])
def test_a_device_ignores_what_does_not_fit_k(k: int) -> None:
    """The first of too many change, and no more than there are."""
    given, right = case(50), case(50)
    original, few = cloned(given["parameters"]), min(k, 50)
    found, expected = ops.perturb(**{**given, "k": k}), ops.perturb(**right)
    assert_same_bits(found[:few], expected[:few])
    indices, counts = ops.select_indices(given["mask"], original, k)
    all_indices, all_counts = ops.select_indices(given["mask"], original, 50)
    assert_same_bits(indices[:few], all_indices[:few])
    assert int(counts.sum()) == few
    assert bool((counts <= all_counts).all())
    changed = cloned(original)
    new = torch.cat(
        [
            p.flatten()[i.long()]
            for p, i in zip(right["parameters"], all_indices.split(all_counts.tolist()), strict=True)
        ]
    )
    ops.perturb_write(changed, indices[:few].clone(), counts, new[:few].clone())
    for a, b in zip(given["parameters"], changed, strict=True):
        assert_same_bits(a, b)
    ops.perturb_undo(given["parameters"], given["mask"], expected[:few].clone())
    for a, b in zip(given["parameters"], original, strict=True):
        assert_same_bits(a, b)


@on_device
def test_a_device_ignores_bits_beyond_the_end() -> None:
    buffer = torch.arange(12.0)
    parameter = buffer[:3]
    mask = torch.tensor([-1])
    assert ops.select_mask(mask, [parameter])[0].tolist() == [True] * 3
    indices, counts = ops.select_indices(mask, [parameter], 3)
    assert (indices.tolist(), counts.tolist()) == ([0, 1, 2], [3])
    assert ops.perturb([parameter], [torch.ones(3)], mask, 3, 1.0).tolist() == [0, 1, 2]
    assert buffer.tolist() == [1, 2, 3, *range(3, 12)]


@on_device
@pytest.mark.parametrize(
    ("indices", "counts", "expected"),
    [
        ([1, 3, -1, 0], [2, 2], [1, 9, 1, 9, 1, 1]),  # an index too large, and a negative one
        ([0, 1, 2, 0], [9, 1], [9, 9, 9, 1, 1, 1]),  # counts beyond the end
        ([0, 1, 2, 0], [1, 1], [9, 1, 1, 1, 9, 1]),  # fewer than there are
        ([0, 1, 2, 0], [-5, 2], [1, 1, 1, 9, 9, 1]),
        ([0, 1, 2, 0], [2**63 - 1, 2**63 - 1], [9, 9, 9, 1, 1, 1]),
    ],
)
def test_a_device_ignores_places_out_of_range(indices: list[int], counts: list[int], expected: list[float]) -> None:
    buffer = torch.ones(6)
    parameters = [buffer[:3], buffer[3:]]
    ops.perturb_write(parameters, torch.tensor(indices), torch.tensor(counts), torch.full((4,), 9.0))
    assert buffer.tolist() == expected
