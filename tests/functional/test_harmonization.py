"""harmonize against gradient surgery written from its equations in float64. The operators: ops/test_project.py."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from asserts import assert_close, assert_same_bits, threads
from cases import DTYPES, LAYOUTS, channels_last, randn
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fastforget import harmonize

SHAPES = [(5, 3), (), (40_001,), (0, 2), (2, 3, 4, 4)]
PROJECTS = ("forget", "remain", "both", "none")


def conflicting(
    tasks: int, shapes: Sequence[tuple[int, ...]] = SHAPES, dtype: Any = torch.float64
) -> list[list[Tensor]]:
    """Gradients of which most pairs conflict: noise around directions that nearly cancel."""
    drawn = []
    for k in range(tasks):
        sign = 1 if k % 2 else -1
        shared = [sign * randn(*shape, dtype=torch.float64, seed=i) for i, shape in enumerate(shapes)]
        own = [randn(*shape, dtype=torch.float64, seed=100 * k + i + 50) for i, shape in enumerate(shapes)]
        drawn.append([((0.5 + k) * (a + 0.8 * b)).to(dtype) for a, b in zip(shared, own, strict=True)])
    return drawn


def surgery(rows: Tensor, project: str, orders: list[list[int]] | None = None) -> Tensor:
    """Sum of the projected rows [K, P] of float64, one projection of a whole gradient at a time."""
    total = torch.zeros_like(rows[0])
    for i, original in enumerate(rows):
        g = original.clone()
        for j in orders[i] if orders else range(len(rows)):
            allowed = {"forget": i == 0, "remain": j == 0, "both": True, "none": False}[project]
            if i != j and allowed and torch.dot(g, rows[j]) < 0:
                g -= torch.dot(g, rows[j]) / torch.dot(rows[j], rows[j]) * rows[j]
        total += g
    return total


def expected(tasks: list[list[Tensor]], project: str, scope: str) -> list[Tensor]:
    if scope == "tensor":
        places = zip(*tasks, strict=True)
        return [surgery(torch.stack([g.double().flatten() for g in p]), project).view(p[0].shape) for p in places]
    flat = surgery(torch.stack([torch.cat([g.double().flatten() for g in task]) for task in tasks]), project)
    return [part.view(g.shape) for part, g in zip(flat.split([g.numel() for g in tasks[0]]), tasks[0], strict=True)]


def norm(tensors: Sequence[Tensor]) -> float:
    return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in tensors))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scope", ["global", "tensor"])
@pytest.mark.parametrize("project", PROJECTS)
@pytest.mark.parametrize("count", [2, 3, 8])
def test_equals_the_equations(count: int, project: Any, scope: Any, dtype: torch.dtype) -> None:
    tasks = conflicting(count, dtype=dtype)
    before = [[g.clone() for g in task] for task in tasks]
    wanted = expected(tasks, project, scope)
    found = harmonize(*tasks, project=project, scope=scope)
    for a, b, *place in zip(found, wanted, *tasks, strict=True):
        assert a.dtype == dtype
        assert norm([a.double() - b]) <= torch.finfo(dtype).eps * norm([b]) + 1e-13 * norm(place)
    if project != "none":
        plain = [sum(place[1:], place[0]) for place in zip(*before, strict=True)]
        assert norm([a.double() - b.double() for a, b in zip(found, plain, strict=True)]) > 0.1 * norm(before[0])
    with threads(2):
        for a, b in zip(harmonize(*tasks, project=project, scope=scope), found, strict=True):
            assert_same_bits(a, b)
    for task, old in zip(tasks, before, strict=True):
        for a, b in zip(task, old, strict=True):
            assert_same_bits(a, b)


values = st.floats(-8, 8, width=32).map(lambda x: round(x, 2))
vectors = st.lists(values, min_size=6, max_size=6).map(lambda v: torch.tensor(v, dtype=torch.float64))


@given(vectors, vectors)
def test_two_tasks(forget: Tensor, remain: Tensor) -> None:
    """Without a conflict the sum; with one, what is projected no longer works against the other."""
    product = float(forget @ remain)
    scale = float(forget.norm() * remain.norm()) + 1e-12
    sums = {project: harmonize(forget, remain, project=project) for project in PROJECTS}
    assert_same_bits(sums["none"] + 0.0, forget + remain + 0.0)
    if product >= 1e-12 * scale:
        for found in sums.values():
            assert torch.equal(found, forget + remain)
    if product <= -1e-9 * scale:
        projected, kept = sums["forget"] - remain, sums["remain"] - forget
        assert abs(float(projected @ remain)) <= 1e-12 * scale
        assert abs(float(kept @ forget)) <= 1e-12 * scale
        assert projected.norm() <= forget.norm() * (1 + 1e-12)
        assert torch.allclose(sums["both"], projected + kept, rtol=0, atol=1e-12 * scale)
    for found in (sums["forget"], sums["both"]):
        assert float(found @ remain) >= -1e-12 * (scale + float(remain @ remain))


@given(st.lists(vectors, min_size=2, max_size=5), st.sampled_from(PROJECTS), st.integers(-20, 20))
def test_any_number_of_tasks(grads: list[Tensor], project: Any, exponent: int) -> None:
    """The equations; and scaling all gradients by a power of two scales the result, to the bit."""
    rows = torch.stack(grads)
    products = rows @ rows.T
    if bool((products.abs() < 1e-6).logical_and(products != 0).any()):
        return  # rounding decides whether these conflict
    found = harmonize(*grads, project=project)
    assert torch.isfinite(found).all()
    assert_same_bits(harmonize(*[g * 2.0**exponent for g in grads], project=project), found * 2.0**exponent)
    if len(grads) == 2 or project in {"remain", "none"}:  # one projection each: no inner product is a result
        assert torch.allclose(found, surgery(rows, project), rtol=0, atol=1e-12 * (1 + float(rows.norm())))


@pytest.mark.parametrize("dtype", DTYPES)
def test_zero_gradients_conflict_with_none(dtype: torch.dtype) -> None:
    g, zero = randn(100, dtype=dtype), torch.zeros(100, dtype=dtype)
    for project in PROJECTS:
        for tasks in ([g, zero], [zero, g], [zero, g, zero]):
            assert_same_bits(harmonize(*tasks, project=project), g + 0.0)
        assert_same_bits(harmonize(zero, zero, project=project), zero)


def test_opposite_gradients_cancel() -> None:
    g = randn(1000)
    assert_same_bits(harmonize(-g, g), g)
    assert_same_bits(harmonize(-2 * g, g, project="remain"), -2 * g)
    assert not harmonize(-g, g, project="both").any()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("project", PROJECTS)
def test_elements_that_are_not_finite_reach_the_result_alone(project: Any, bad: float) -> None:
    forget, remain, third = conflicting(3, [(300,)], torch.float32)
    third[0][7] = bad
    found = harmonize(forget, remain, third, project=project)[0]
    alone = harmonize(forget, remain, project=project)[0].double() + third[0].double()
    assert not found[7].isfinite()
    rest = torch.arange(300) != 7
    assert torch.allclose(found[rest].double(), alone[rest], rtol=1e-6, atol=1e-6)


def test_range_of_float32() -> None:
    """Squares of these would be zero or infinite in float32."""
    for scale in (1e-30, 1e30):
        tasks = conflicting(3, [(50, 7)], torch.float32)
        tiny = [[g * scale for g in task] for task in tasks]
        for project in PROJECTS:
            assert_close(harmonize(*tiny, project=project)[0], expected(tiny, project, "global")[0], 1e-6)


def test_structures() -> None:
    (a, b), (c, d) = conflicting(2, [(4,), (2, 3)])
    wanted = harmonize([a, b], [c, d])
    assert isinstance(wanted, list)
    assert isinstance(harmonize((a, b), (c, d)), list)
    found = harmonize({"z": a, "a": b}, {"a": d, "z": c})
    assert list(found) == ["z", "a"]
    for one, other in zip(found.values(), wanted, strict=True):
        assert_same_bits(one, other)
    assert_same_bits(harmonize(a, c), harmonize([a], [c])[0])


@pytest.mark.parametrize("task", [0, 1, 2])
@pytest.mark.parametrize("scope", ["global", "tensor"])
@pytest.mark.parametrize("layout", [*LAYOUTS, "mixed"])
def test_out_may_be_a_gradient(layout: str, scope: Any, task: int) -> None:
    tasks = conflicting(3, [(5, 3), (2, 3, 4, 4)], torch.float32)
    wanted = harmonize(*tasks, project="both", scope=scope)
    change = [LAYOUTS.get(layout, list(LAYOUTS.values())[k]) for k in range(3)]
    given_tasks = [[change[k](g) for g in grads] for k, grads in enumerate(tasks)]
    out = given_tasks[task]
    memory = [(g.data_ptr(), g.stride()) for g in out]
    assert harmonize(*given_tasks, project="both", scope=scope, out=out) is out
    assert [(g.data_ptr(), g.stride()) for g in out] == memory
    for k, grads in enumerate(given_tasks):
        for found, want in zip(grads, wanted if k == task else tasks[k], strict=True):
            assert_same_bits(found, want)


def test_out_of_its_own() -> None:
    tasks = [{"b": task[0], "a": task[1]} for task in conflicting(2, [(4,), (2, 3)])]
    out = {"a": torch.zeros(2, 3, dtype=torch.float64), "b": torch.zeros(4, dtype=torch.float64)}
    wanted = harmonize(*tasks)
    assert harmonize(*tasks, out=out) is out
    for name, found in out.items():
        assert_same_bits(found, wanted[name])


def test_channels_last_stays() -> None:
    tasks = [[channels_last(g) for g in task] for task in conflicting(2, [(2, 3, 4, 4)])]
    found = harmonize(*tasks)[0]
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert_same_bits(found, harmonize(*[[g.contiguous() for g in task] for task in tasks])[0])


def test_expanded_and_with_gradients() -> None:
    one = torch.full((1,), -1.0, requires_grad=True)
    found = harmonize([one.expand(4)], [torch.tensor([3.0, 1.0, 0.0, 0.0], requires_grad=True)])[0]
    assert not found.requires_grad
    assert torch.allclose(found, torch.tensor([3.2, 0.4, -1.0, -1.0]))


def test_generator_draws_the_order() -> None:
    tasks = conflicting(5, [(300,)])
    rows = torch.stack([task[0] for task in tasks])
    seen = set()
    for seed in range(4):
        draw = torch.Generator().manual_seed(seed)
        orders = [torch.randperm(5, generator=draw).tolist() for _ in range(5)]
        for project in ("forget", "both"):
            found = harmonize(*tasks, project=project, generator=torch.Generator().manual_seed(seed))[0]
            assert_close(found, surgery(rows, project, orders), 1e-13)
            seen.add((project, float(found[0])))
    assert len(seen) > 4


@pytest.mark.parametrize("count", [2, 3, 4, 8])
def test_equals_torchjd(count: int) -> None:
    """The order of the projections is the same because both draw it with ``torch.randperm``."""
    aggregation = pytest.importorskip("torchjd.aggregation")
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        tasks = conflicting(count, dtype=dtype)
        rows = torch.stack([torch.cat([g.flatten() for g in task]) for task in tasks])
        for seed in range(3):
            found = harmonize(*tasks, project="both", generator=torch.Generator().manual_seed(seed))
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                wanted = aggregation.PCGrad()(rows)
            assert_close(torch.cat([g.flatten() for g in found]), wanted, tolerance)


def test_in_a_compiled_function() -> None:
    tasks = conflicting(3, [(5, 3), (4,)], torch.float32)

    def step(*grads: list[Tensor]) -> list[Tensor]:
        return [g * 2 for g in harmonize(*grads, project="both", scope="tensor")]

    torch.compiler.reset()
    found = torch.compile(step, fullgraph=True, backend="aot_eager")(*tasks)
    for a, b in zip(found, step(*tasks), strict=True):
        assert_same_bits(a, b)
