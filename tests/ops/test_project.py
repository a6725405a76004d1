"""project, project_gram, project_weights and project_combine against their reference in float64."""

import math
from typing import Any

import pytest
import torch
from asserts import ON_DEVICE, assert_close, assert_same_bits, assert_traceable, by_fault, threads
from cases import DTYPES, randn
from torch import Tensor

from fastforget import ops
from fastforget.ops import reference

CHUNK, BLOCK = 1 << 14, 1 << 10  # elements that the binding hands out at a time, and that stay in a cache
SIZES = [
    [(1,)],
    [()],
    [(0,)],
    [(2,), (1,), (0, 3), (31,)],
    [(7, 9), (BLOCK + 1,), (2, 2, 5)],
    [(CHUNK,), (CHUNK + 1,), (3,)],
    [(9 * CHUNK - 5,), (4,), (33, 65)],
]
TASKS = [1, 2, 3, 4, 5, 6, 7, 8, 13]


def gradients(tasks: int, sizes: list[tuple[int, ...]], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    count = len(sizes)
    return [randn(*size, dtype=dtype, seed=k * count + i) for k in range(tasks) for i, size in enumerate(sizes)]


def wide(grads: list[Tensor]) -> list[Tensor]:
    return [grad.double() for grad in grads]


def assert_gram(actual: Tensor, grads: list[Tensor], tasks: int, *, per_tensor: bool) -> None:
    """Every entry is the reference's to 1e-13 of the two norms."""
    expected = reference.project_gram(wide(grads), tasks, per_tensor=per_tensor)
    assert actual.dtype == torch.float64
    assert actual.shape == expected.shape
    norms = expected.diagonal(dim1=1, dim2=2).sqrt()
    assert bool(((actual - expected).abs() <= 1e-13 * norms[:, :, None] * norms[:, None]).all())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tasks", TASKS)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_gram_equals_reference(sizes: list[tuple[int, ...]], tasks: int, dtype: torch.dtype) -> None:
    grads = gradients(tasks, sizes, dtype)
    before = [grad.clone() for grad in grads]
    for per_tensor in (False, True):
        found = ops.project_gram(grads, tasks, per_tensor=per_tensor)
        assert_gram(found, grads, tasks, per_tensor=per_tensor)
        assert_same_bits(found, found.mT)
        for count in (1, 2):
            with threads(count):
                assert_same_bits(ops.project_gram(grads, tasks, per_tensor=per_tensor), found)
    for grad, old in zip(grads, before, strict=True):
        assert_same_bits(grad, old)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_products_neither_vanish_nor_overflow(scale: float) -> None:
    """In float32 the squares would be 0 or infinite."""
    grads = [grad * scale for grad in gradients(5, [(3000,), (7,)])]
    found = ops.project_gram(grads, 5)
    assert_gram(found, grads, 5, per_tensor=False)
    assert found.diagonal(dim1=1, dim2=2).min() > 1000 * scale**2


def test_gram_keeps_what_float32_sums_lose() -> None:
    ones = torch.ones(1 << 20)
    grads = [torch.cat([ones * 2.0**13, torch.ones(1)]), torch.cat([ones, torch.tensor([3.0])])]
    assert ops.project_gram(grads, 2)[0, 0, 1] == 2.0**33 + 3


def test_gram_of_tensors_of_several_dtypes() -> None:
    grads = [randn(50 + i, dtype=dtype, seed=10 * k + i) for k in range(3) for i, dtype in enumerate(DTYPES)]
    assert_gram(ops.project_gram(grads, 3), grads, 3, per_tensor=False)


def assert_combined(out: list[Tensor], grads: list[Tensor], weights: Tensor) -> None:
    """Every element is the float64 sum, rounded once: off by half a unit in the last place, and the sum's own error."""
    exact, terms = ([torch.empty_like(t, dtype=torch.float64) for t in out] for _ in range(2))
    reference.project_combine(wide(grads), weights, exact)
    reference.project_combine([grad.double().abs() for grad in grads], weights.abs(), terms)
    for found, wanted, scale in zip(out, exact, terms, strict=True):
        limits = torch.finfo(found.dtype)
        rounding = (wanted.abs() * limits.eps / 2).clamp(min=limits.tiny * limits.eps / 2)
        assert bool(((found.double() - wanted).abs() <= rounding * (1 + 1e-6) + 1e-15 * scale).all())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tasks", TASKS)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_combine_equals_reference(sizes: list[tuple[int, ...]], tasks: int, dtype: torch.dtype) -> None:
    grads = gradients(tasks, sizes, dtype)
    before = [grad.clone() for grad in grads]
    for scopes in (1, len(sizes)):
        weights = randn(scopes, tasks, dtype=torch.float64, seed=99)
        runs = []
        for count in (1, 2):
            runs.append([torch.full(size, math.nan, dtype=dtype) for size in sizes])
            with threads(count):
                ops.project_combine(grads, weights, runs[-1])
        assert_combined(runs[0], grads, weights)
        for first, second in zip(*runs, strict=True):
            assert_same_bits(first, second)
    for grad, old in zip(grads, before, strict=True):
        assert_same_bits(grad, old)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_plain_sum_is_rounded_once(dtype: torch.dtype) -> None:
    a, b = randn(5001, dtype=dtype, seed=1), randn(5001, dtype=dtype, seed=2) * 1e-3
    out = [torch.empty_like(a)]
    ops.project_combine([a, b], torch.ones(1, 2, dtype=torch.float64), out)
    assert_same_bits(out[0], a + b)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_half_value_is_read_and_written(dtype: torch.dtype) -> None:
    every = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
    out = [torch.empty_like(every)]
    ops.project_combine([every], torch.ones(1, 1, dtype=torch.float64), out)
    assert torch.equal(out[0].isnan(), every.isnan())
    assert_same_bits(out[0][~every.isnan()], (every + 0.0)[~every.isnan()])
    finite = every[every.isfinite()]
    for scale in (0.75, 1.5, 1 / 3):
        out = [torch.empty_like(finite)]
        ops.project_combine([finite], torch.full((1, 1), scale, dtype=torch.float64), out)
        assert torch.equal(out[0], (finite.double() * scale).to(dtype))
    squares = ops.project_gram([finite, finite], 2)[0]
    assert torch.allclose(squares, finite.double().square().sum().expand(2, 2), rtol=1e-14, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("task", [0, 1, 2])
def test_in_place(task: int, dtype: torch.dtype) -> None:
    sizes = SIZES[-1]
    grads, weights = gradients(3, sizes, dtype), randn(len(sizes), 3, dtype=torch.float64, seed=5)
    expected = [torch.empty(size, dtype=dtype) for size in sizes]
    ops.project_combine(grads, weights, expected)
    for count in (1, 2):
        given = [grad.clone() for grad in grads]
        own = given[task * len(sizes) :][: len(sizes)]
        with threads(count):
            ops.project_combine(given, weights, own)
        for i, (found, grad) in enumerate(zip(given, grads, strict=True)):
            assert_same_bits(found, expected[i % len(sizes)] if i // len(sizes) == task else grad)


@pytest.mark.parametrize("tasks", [1, 2, 3, 8])
def test_weights_equal_reference(tasks: int) -> None:
    rows = randn(5, tasks, tasks + 2, dtype=torch.float64) - 0.1
    gram = rows @ rows.mT
    draw = torch.Generator().manual_seed(4)
    for steps in (0, 1, tasks, 2 * tasks):
        order = torch.randint(-1, tasks, (tasks, steps), generator=draw)
        found = ops.project_weights(gram, order)
        assert found.dtype == torch.float64
        assert_close(found, reference.project_weights(gram, order), 1e-14)
        if tasks == 8 and steps == tasks:
            assert not torch.equal(found, torch.ones_like(found))


def weights_of(gram: list[list[float]], order: list[list[int]]) -> list[float]:
    matrix = torch.tensor([gram], dtype=torch.float64)
    found = ops.project_weights(matrix, torch.tensor(order))
    assert_same_bits(found, reference.project_weights(matrix, torch.tensor(order)))
    return found[0].tolist()


BOTH = [[1], [0]]


@pytest.mark.parametrize(
    ("gram", "order", "expected"),
    [
        ([[4, -2], [-2, 2]], [[1], [-1]], [1, 2]),  # g_0 + 1 g_1, g_1
        ([[4, -2], [-2, 2]], [[-1], [0]], [1.5, 1]),
        ([[4, -2], [-2, 2]], BOTH, [1.5, 2]),
        ([[4, 2], [2, 2]], BOTH, [1, 1]),
        ([[4, 0], [0, 2]], BOTH, [1, 1]),
        ([[0, 0], [0, 2]], BOTH, [1, 1]),  # a zero gradient
        ([[0, 0], [0, 0]], BOTH, [1, 1]),
        ([[1, -1e-3], [-1e-3, 5e-324]], BOTH, [1.001, 1]),  # a multiple that would overflow
        ([[math.nan, math.nan], [math.nan, 1]], BOTH, [1, 1]),
        ([[math.inf, -math.inf], [-math.inf, 1]], BOTH, [1, 1]),
        # The first two conflict; what is not finite in the third does not keep them from it.
        ([[1, -1, math.nan], [-1, 2, math.inf], [math.nan, math.inf, math.inf]], [[1, 2], [0, 2], [0, 1]], [2, 1.5, 1]),
        # After the first step g_0' no longer conflicts with g_2, in the other order it does with both.
        ([[2, -1, -0.1], [-1, 1, 0.5], [-0.1, 0.5, 1]], [[1, 2], [-1, -1], [-1, -1]], [1, 2, 1]),
        ([[2, -1, -0.1], [-1, 1, 0.5], [-0.1, 0.5, 1]], [[2, 1], [-1, -1], [-1, -1]], [1, 1.95, 1.1]),
    ],
)
def test_weights_by_hand(gram: list[list[float]], order: list[list[int]], expected: list[float]) -> None:
    assert weights_of(gram, order) == pytest.approx(expected, rel=1e-15)


def test_opcheck_and_compile() -> None:
    grads = gradients(3, [(7, 9), (3,)])
    gram, order = ops.project_gram(grads, 3, per_tensor=True), torch.tensor([[1, 2], [0, 2], [0, 1]])
    for per_tensor in (False, True):
        assert_traceable("project_gram", grads, 3, per_tensor)
    assert_traceable("project_weights", gram, order)
    assert_traceable("project_combine", grads, ops.project_weights(gram, order), [torch.zeros(7, 9), torch.zeros(3)])
    assert_traceable("project", grads, order, False, [torch.zeros(7, 9), torch.zeros(3)])


@pytest.mark.parametrize("per_tensor", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_in_one_call(dtype: torch.dtype, per_tensor: bool) -> None:
    """The same bits as in three, also where the result is one of the gradients."""
    grads = [grad.to(dtype) for grad in gradients(3, [(7, 9), (0,), (3,)])]
    order = torch.tensor([[1, 2], [0, 2], [0, 1]])
    expected, found = ([torch.empty_like(grad) for grad in grads[:3]] for _ in range(2))
    weights = ops.project_weights(ops.project_gram(grads, 3, per_tensor=per_tensor), order)
    ops.project_combine(grads, weights, expected)
    ops.project(grads, order, found, per_tensor=per_tensor)
    ops.project(grads, order, grads[3:6], per_tensor=per_tensor)
    for one, in_place, other in zip(found, grads[3:6], expected, strict=True):
        assert_same_bits(one, other)
        assert_same_bits(in_place, other)


GRAM_BAD: dict[str, tuple[list[Tensor], int, str]] = {
    "count": ([torch.zeros(2)] * 3, 2, "`grads` must have the same number of tensors for each of 2 tasks, got 3"),
    "no tasks": ([torch.zeros(2)], 0, "`grads` must have the same number of tensors for each of 0 tasks, got 1"),
    "shape": (
        [torch.zeros(2, 3), torch.zeros(6)],
        2,
        r"`grads` must have the shapes of the first task's, got \(6,\) and \(2, 3\)",
    ),
    "mixed": ([torch.zeros(2), torch.zeros(2).double()], 2, "`grads` must be Float, got Double"),
    "int": ([torch.zeros(2).int()] * 2, 2, "`grads` must be float32, float64, bfloat16 or float16, got Int"),
    "strides": ([torch.zeros(2, 3).t()] * 2, 2, "`grads` must be contiguous"),
}


@pytest.mark.parametrize("fault", GRAM_BAD)
def test_bad_gradients(fault: str) -> None:
    grads, tasks, text = GRAM_BAD[fault]
    with pytest.raises(RuntimeError, match=text):
        ops.project_gram(grads, tasks)


@pytest.mark.parametrize("fault", ["shape", "strides", "order dim", "order range", "out count", "out twice"])
def test_bad_calls_write_nothing(fault: str) -> None:
    grads, order, out = [torch.ones(2, 3) for _ in range(4)], torch.tensor(BOTH), [torch.zeros(2, 3) for _ in range(2)]
    given = {
        "shape": ([*grads[:3], torch.ones(6)], order, out, "`grads` must have the shapes of the first task's"),
        "strides": ([torch.ones(3, 2).t(), *grads[1:]], order, out, "`grads` must be contiguous"),
        "order dim": (grads, order[0], out, "`order` must be 2-D"),
        "order range": (grads, torch.tensor([[1], [2]]), out, "`order` must be less than 2, got 2"),
        "out count": (grads, order, out[:1], "`out` must have one tensor per tensor of a task, got 1 and 2"),
        "out twice": (grads, order, out[:1] * 2, "`out` must hold tensors with memory of their own"),
    }
    if fault == "order range" and ON_DEVICE:
        pytest.skip("a device's data is not read by the host")
    *arguments, text = given[fault]
    with pytest.raises(RuntimeError, match=text):
        ops.project(*arguments)
    assert all(not tensor.any() for tensor in out)


def test_nothing_to_project() -> None:
    with pytest.raises(ValueError, match="`grads` must not be empty"):
        ops.project([], torch.tensor(BOTH), [])
    with pytest.raises(ValueError, match="`grads` must not be empty"):
        ops.project_gram([], 2)
    with pytest.raises(ValueError, match="`grads` must not be empty"):
        ops.project_combine([], torch.ones(1, 2, dtype=torch.float64), [])


SQUARE, STEPS = torch.eye(2, dtype=torch.float64)[None], torch.tensor(BOTH)
WEIGHTS_BAD: dict[str, tuple[Tensor, Tensor, str]] = {
    "gram dim": (SQUARE[0], STEPS, r"`gram` must be 3-D, got shape \(2, 2\)"),
    "gram dtype": (SQUARE.float(), STEPS, "`gram` must be Double, got Float"),
    "gram square": (SQUARE[:, :, :1].contiguous(), STEPS, "`gram` must have size 2 in dimension 2"),
    "gram strides": (torch.ones(2, 2, 2).double().permute(2, 1, 0), STEPS, "`gram` must be contiguous"),
    "order dim": (SQUARE, STEPS[0], "`order` must be 2-D"),
    "order dtype": (SQUARE, STEPS.int(), "`order` must be Long, got Int"),
    "order rows": (SQUARE, STEPS[:1], "`order` must have size 2 in dimension 0"),
    "order strides": (SQUARE, torch.ones(1, 2, dtype=torch.int64).expand(2, 2), "`order` must be contiguous"),
    "order range": (SQUARE, torch.tensor([[1], [2]]), "`order` must be less than 2, got 2"),
}


@pytest.mark.parametrize("fault", by_fault(WEIGHTS_BAD, "order range"))
def test_bad_gram_or_order(fault: str) -> None:
    gram, order, text = WEIGHTS_BAD[fault]
    with pytest.raises(RuntimeError, match=text):
        ops.project_weights(gram, order)


def combine_bad() -> dict[str, tuple[dict[str, Any], str]]:
    buffer = torch.arange(12.0)
    a, b, c, d = buffer.split(3)
    ones = torch.ones(1, 2, dtype=torch.float64)
    shared = "`out` must share memory only with gradients of the same place, got one that overlaps tensor"
    return {
        "weights dim": ({"weights": ones[0]}, "`weights` must be 2-D"),
        "weights dtype": ({"weights": ones.float()}, "`weights` must be Double, got Float"),
        "weights strides": ({"weights": torch.ones(3, 2).double()[:2].t()}, "`weights` must be contiguous"),
        "weights rows": ({"weights": ones.repeat(3, 1)}, "`weights` must have size 1 or 2 in dimension 0"),
        "out count": ({"out": [torch.zeros(3)]}, "`out` must have one tensor per tensor of a task, got 1 and 2"),
        "out shape": ({"out": [torch.zeros(3), torch.zeros(4)]}, r"`out` must have the shapes .* got \(4,\) and"),
        "out dtype": ({"out": [torch.zeros(3), torch.zeros(3).double()]}, "`out` must be Float, got Double"),
        "out strides": ({"out": [torch.zeros(3), torch.zeros(3, 2)[:, 0]]}, "`out` must be contiguous"),
        "out twice": ({"out": [torch.zeros(3)] * 2}, "`out` must hold tensors with memory of their own"),
        "out shifted": ({"grads": [a, b, c, d], "out": [buffer[1:4], torch.zeros(3)]}, f"{shared} 0 of task 0"),
        "out crossed": ({"grads": [a, b, c, d], "out": [b, a]}, f"{shared} 0 of task 0"),
        "out of another": ({"grads": [a, b, c, d], "out": [torch.zeros(3), c]}, f"{shared} 0 of task 1"),
        "one for two": ({"grads": [a, a, c, d], "out": [a, b]}, f"{shared} 1 of task 0"),
    }


@pytest.mark.parametrize("fault", combine_bad())
def test_bad_combination_writes_nothing(fault: str) -> None:
    change, text = combine_bad()[fault]
    given = {
        "grads": [torch.ones(3) for _ in range(4)],
        "weights": torch.ones(1, 2, dtype=torch.float64),
        "out": [torch.zeros(3), torch.zeros(3)],
    } | change
    before = [tensor.clone() for tensor in given["grads"] + given["out"]]
    with pytest.raises(RuntimeError, match=text):
        ops.project_combine(**given)
    for tensor, old in zip(given["grads"] + given["out"], before, strict=True):
        assert_same_bits(tensor, old)
