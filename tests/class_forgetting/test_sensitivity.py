"""What the rules know: ratios, the steepest direction, and the difference to a kept sum, on more than one piece."""

import math
from typing import Any

import pytest
import torch
from asserts import assert_close, assert_same_bits, threads
from cases import randn
from simulated_device import dispatched, simulated_device, to_cpu, to_device
from torch import Tensor

from fastforget.class_forgetting import sensitivity
from fastforget.class_forgetting.sensitivity import Sensitivity
from fastforget.fisher.diagonal import FisherDiagonal

SHAPES = {"weight": (1_000, 700), "bias": (3,), "none": (0,)}
PLACES = [torch.tensor([0, 5, 699_999]), torch.tensor([2]), torch.tensor([], dtype=torch.int64)]
N, ALL = 2, 10


def positive(seed: int) -> dict[str, Tensor]:
    return {name: randn(*shape, seed=seed + i).square() for i, (name, shape) in enumerate(SHAPES.items())}


def diagonal(values: dict[str, Tensor], samples: int, **facts: Any) -> FisherDiagonal:
    return FisherDiagonal(values, fallback={}, losses=torch.zeros(0), samples=samples, **facts)


def cases() -> dict[str, Sensitivity]:
    forget, remain = positive(1), positive(5)
    gradient = {name: randn(*shape, seed=9) for name, shape in SHAPES.items()}
    groups = {name: torch.stack([value, remain[name]]) for name, value in forget.items()}
    pairs = {name: torch.stack([value, value]) for name, value in gradient.items()}
    everything = {name: N * value + (ALL - N) * remain[name] for name, value in forget.items()}
    few = diagonal(forget, N, gradient=gradient)
    return {
        "groups": Sensitivity.of_groups(diagonal(groups, ALL, gradient=pairs)),
        "difference": Sensitivity.of_difference(diagonal(everything, ALL, gradient=None), few, (0.0, 0.0)),
    }


@pytest.mark.parametrize("kind", ["groups", "difference"])
def test_equals_its_definition(kind: str) -> None:
    forget, remain = ({n: v.double() for n, v in positive(seed).items()} for seed in (1, 5))
    ratios = cases()[kind].into_ratios()
    for ratio, name in zip(ratios.values.values(), SHAPES, strict=True):
        assert ratio.shape == SHAPES[name]
        # the difference is right to rounding of the sum, and the remaining Fisher may be far below that
        chosen = remain[name] > 1e-4 * forget[name]
        assert_close(ratio[chosen], (forget[name] / remain[name])[chosen], 1e-3 if kind == "difference" else 1e-6)
    mean = torch.cat([value.flatten() for value in remain.values()]).mean()
    direction, gradient = ratios.steepest(dict(zip(SHAPES, PLACES, strict=True)))
    expected = torch.cat([randn(*SHAPES[n], seed=9).view(-1)[at] for n, at in zip(SHAPES, PLACES, strict=True)])
    below = torch.cat([remain[n].view(-1)[at] for n, at in zip(SHAPES, PLACES, strict=True)])
    assert_same_bits(gradient, expected)
    assert_close(direction, expected.double() / (below + 0.1 * mean), 1e-5)


@pytest.mark.parametrize("kind", ["groups", "difference"])
def test_same_bits_for_any_number_of_threads(kind: str) -> None:
    results = []
    for count in (1, 2):
        with threads(count):
            ratios = cases()[kind].into_ratios()
            results.append([*ratios.values.values(), *ratios.steepest(dict(zip(SHAPES, PLACES, strict=True)))])
    for one, two in zip(*results, strict=True):
        assert_same_bits(one, two)


def test_the_kept_sum_is_not_changed() -> None:
    kept, few = diagonal(positive(1), ALL, gradient=None), diagonal(positive(1), N, gradient=positive(2))
    Sensitivity.of_difference(kept, few, (0.0, 0.0)).into_ratios()
    for name, value in positive(1).items():
        assert_same_bits(kept[name], value)


def test_a_kept_sum_of_any_strides() -> None:
    kept, few = positive(1), diagonal(positive(1), N, gradient=positive(2))
    kept["weight"] = kept["weight"].t().contiguous().t()
    found, again = (
        Sensitivity.of_difference(diagonal(of_all, ALL, gradient=None), of_few, (0.0, 0.0)).into_ratios()
        for of_all, of_few in ((kept, few), (positive(1), diagonal(positive(1), N, gradient=None)))
    )
    for ratio, expected in zip(found.values.values(), again.values.values(), strict=True):
        assert_same_bits(ratio, expected)


def test_a_difference_is_not_negative() -> None:
    """The kept sum is smaller than what it must hold, by rounding or more."""
    kept = diagonal({"w": torch.tensor([1.0, 0.0])}, ALL, gradient=None)
    few = diagonal({"w": torch.tensor([1.0, 1.0])}, N, gradient={"w": torch.ones(2)})
    ratios = Sensitivity.of_difference(kept, few, (0.0, 0.0)).into_ratios()
    assert ratios.values["w"].tolist() == [pytest.approx(1e16)] * 2
    assert ratios.remain["w"].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("kind", ["groups", "difference"])
def test_the_ratios_take_the_memory_over_once(kind: str) -> None:
    found = cases()[kind]
    memory = {name: value.data_ptr() for name, value in found.forget.items()}
    ratios = found.into_ratios()
    assert {name: value.data_ptr() for name, value in ratios.values.items()} == memory
    assert (found.forget, found.remain, found.gradient, found.kept) == ({}, {}, None, None)
    with pytest.raises(RuntimeError, match=r"^this sensitivity was turned into ratios already$"):
        found.into_ratios()


def test_there_is_no_direction_without_the_gradient() -> None:
    few = diagonal(positive(1), N, gradient=None)
    ratios = Sensitivity.of_difference(diagonal(positive(1), ALL, gradient=None), few, (0.0, 0.0)).into_ratios()
    with pytest.raises(TypeError, match=r"^`fisher` must come with the gradient$"):
        ratios.steepest(dict(zip(SHAPES, PLACES, strict=True)))


def test_ratio_of_zeros_and_extremes() -> None:
    """Two zeros are one, and nothing is infinite."""
    values = {"w": torch.tensor([[0.0, 1.0, 0.0, 1e30, math.inf, math.nan], [0.0, 0.0, 1.0, 1e-30, math.inf, 1.0]])}
    found = Sensitivity.of_groups(diagonal(values, ALL, gradient=None)).into_ratios().values["w"]
    largest = torch.finfo(torch.float32).max
    assert found.tolist() == pytest.approx([1, 1e16, 1e-16, largest, 1, 1], rel=1e-5)


@pytest.mark.parametrize("kind", ["groups", "difference"])
def test_on_a_device_parameters_share_launches(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in pieces, and in groups that bound the memory in between; the same numbers but for the order of a sum."""
    expected, distant = cases()[kind].into_ratios(), cases()[kind]
    for name in ("forget", "remain", "gradient"):
        setattr(distant, name, to_device(getattr(distant, name)))
    with simulated_device(monkeypatch):
        distant.kept = None if distant.kept is None else distant.kept.to("meta")
    with simulated_device(monkeypatch) as waits, dispatched() as counts:
        found = distant.into_ratios()
        assert waits == []
        steps = sum(number for name, number in counts.items() if name not in ("view", "detach", "unbind"))
        assert steps <= (9 if kind == "groups" else 13)  # a sum and a nan_to_num for each of two, the rest together
    for name, value in found.values.items():
        assert_same_bits(to_cpu(value), expected.values[name])
        assert_same_bits(to_cpu(found.remain[name]), expected.remain[name])
    assert found.remain_sums.keys() == expected.remain_sums.keys()
    for name, total in found.remain_sums.items():
        assert_close(to_cpu(total), expected.remain_sums[name], 1e-6)


def test_groups_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    expected, distant = cases()["groups"].into_ratios(), cases()["groups"]
    distant.forget, distant.remain = to_device(distant.forget), to_device(distant.remain)
    monkeypatch.setattr(sensitivity, "_TOGETHER", 10)
    with simulated_device(monkeypatch), dispatched() as counts:
        found = distant.into_ratios()
    assert counts["_foreach_div_"] == 2
    for name, value in found.values.items():
        assert_same_bits(to_cpu(value), expected.values[name])
