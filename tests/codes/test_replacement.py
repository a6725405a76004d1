"""`MnemonicCodes.embed`: what is replaced, how often, by what, and every refusal."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fastforget.classifier.inputs import Inputs
from fastforget.codes.mnemonic_codes import MnemonicCodes


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tensor(inputs: Inputs) -> Tensor:
    assert isinstance(inputs, Tensor)
    return inputs


@given(
    count=st.integers(0, 12),
    classes=st.integers(1, 4),
    per_class=st.integers(1, 3),
    rate=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
def test_each_sample_is_itself_or_a_code_of_its_class(
    count: int, classes: int, per_class: int, rate: float, seed: int
) -> None:
    codes = MnemonicCodes.generate(classes, (2, 3), per_class=per_class)
    inputs = torch.rand(count, 2, 3) + 10
    targets = torch.randint(classes, (count,))
    before = inputs.clone()
    out = tensor(codes.embed(inputs, targets, rate, generator=seeded(seed)))
    assert torch.equal(inputs, before)
    assert (out.shape, out.dtype) == (inputs.shape, inputs.dtype)
    for row in range(count):
        options = [inputs[row], *codes.tensor[targets[row]]]
        assert sum(torch.equal(out[row], option) for option in options) == 1
    assert torch.equal(out, tensor(codes.embed(inputs, targets, rate, generator=seeded(seed))))


@pytest.mark.parametrize(("rate", "expected"), [(0, 0), (1, 1)])
def test_the_ends_are_certain(rate: float, expected: float) -> None:
    codes = MnemonicCodes.generate(2, ())
    out = tensor(codes.embed(torch.full((5000,), 10.0), torch.zeros(5000, dtype=torch.int64), rate))
    assert (out != 10).double().mean() == expected


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.7])
def test_frequency_and_even_choice_among_the_codes(rate: float) -> None:
    """Within five standard errors of the binomial distribution."""
    count, per_class = 20_000, 4
    codes = MnemonicCodes.generate(3, (), per_class=per_class)
    targets = torch.arange(count) % 3
    out = tensor(codes.embed(torch.full((count,), 10.0), targets, rate, generator=seeded()))
    for code in codes.tensor.flatten():
        share = (out == code).double().sum() / count
        expected = rate / (3 * per_class)
        assert abs(share - expected) < 5 * math.sqrt(expected * (1 - expected) / count)


def test_all_leaves_take_part_in_one_draw() -> None:
    codes = MnemonicCodes.generate(2, {"image": (2, 2), "extra": ()}, per_class=3)
    assert isinstance(codes.stacked, dict)
    targets = torch.arange(200) % 2
    batch: Inputs = {"extra": torch.full((200,), 10.0), "image": torch.full((200, 2, 2), 10.0)}  # in another order
    out = codes.embed(batch, targets, 0.5, generator=seeded())
    assert isinstance(out, dict)
    for row in range(200):
        options = range(3)
        picked = [m for m in options if torch.equal(out["image"][row], codes.stacked["image"][targets[row], m])]
        extras = [m for m in options if torch.equal(out["extra"][row], codes.stacked["extra"][targets[row], m])]
        assert picked == extras
        assert bool(picked) == bool(out["image"][row, 0, 0] != 10)


def test_a_list_of_inputs_is_a_tuple() -> None:
    codes = MnemonicCodes.generate(2, [(2,), ()], per_class=1)
    batch: Any = [torch.full((4, 2), 10.0), torch.full((4,), 10.0)]
    out = codes.embed(batch, torch.tensor([0, 1, 0, 1]), 1.0)
    assert isinstance(out, tuple)
    assert isinstance(codes.stacked, tuple)
    assert torch.equal(out[1], codes.stacked[1][[0, 1, 0, 1], 0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_codes_take_the_type_of_the_inputs(dtype: torch.dtype) -> None:
    codes = MnemonicCodes.generate(2, (3,), per_class=1)
    out = tensor(codes.embed(torch.zeros(2, 3, dtype=dtype), torch.tensor([1, 0]), 1.0))
    assert torch.equal(out, codes.tensor[[1, 0], 0].to(dtype))


def test_integer_inputs_with_integer_codes() -> None:
    codes = MnemonicCodes.from_tensors(torch.arange(6).view(2, 1, 3))
    out = tensor(codes.embed(torch.full((2, 3), 9), torch.tensor([1, 0]), 1.0))
    assert out.tolist() == [[3, 4, 5], [0, 1, 2]]


def test_the_default_generator_is_pytorchs() -> None:
    codes = MnemonicCodes.generate(2, ())
    batch, targets = torch.full((100,), 10.0), torch.zeros(100, dtype=torch.int64)
    torch.manual_seed(4)
    first = codes.embed(batch, targets, 0.5)
    torch.manual_seed(4)
    assert torch.equal(tensor(first), tensor(codes.embed(batch, targets, 0.5)))


def test_gradients_reach_the_samples_that_stay() -> None:
    codes = MnemonicCodes.generate(2, ())
    batch = torch.full((50,), 10.0, requires_grad=True)
    out = tensor(codes.embed(batch, torch.zeros(50, dtype=torch.int64), 0.5, generator=seeded()))
    out.sum().backward()
    assert batch.grad is not None
    assert torch.equal(batch.grad, (out == 10).float())


ZEROS = torch.zeros(2, dtype=torch.int64)
REFUSED: list[tuple[Any, Any, float, type[Exception], str]] = [
    (torch.rand(2, 3), ZEROS, -0.1, ValueError, "`rate` must be in [0, 1], got -0.1"),
    (torch.rand(2, 3), ZEROS, 1.1, ValueError, "`rate` must be in [0, 1], got 1.1"),
    (torch.rand(2, 3), ZEROS, math.nan, ValueError, "`rate` must be in [0, 1], got nan"),
    (torch.rand(2, 3), ZEROS.int(), 0.3, TypeError, "`targets` must be torch.int64, got torch.int32 (2,)"),
    (torch.rand(2, 3), ZEROS[None], 0.3, ValueError, "`targets` must be 1-D, got shape (1, 2)"),
    (torch.rand(2, 3), ZEROS + 4, 0.3, ValueError, "`targets` must be in [0, 4), got values from 4 to 4"),
    (torch.rand(2, 3), ZEROS - 1, 0.3, ValueError, "`targets` must be in [0, 4), got values from -1 to -1"),
    (
        torch.rand(3, 3),
        ZEROS,
        0.3,
        ValueError,
        "`inputs` must have shape (2, 3), for these targets and codes, got (3, 3)",
    ),
    (
        torch.rand(2, 1, 3),
        ZEROS,
        0.3,
        ValueError,
        "`inputs` must have shape (2, 3), for these targets and codes, got (2, 1, 3)",
    ),
    (
        torch.zeros(2, 3).long(),
        ZEROS,
        0.3,
        TypeError,
        "`inputs` must be of the codes' kind (torch.float32), got torch.int64",
    ),
    ((torch.rand(2, 3),), ZEROS, 0.3, ValueError, "`inputs` must be a tensor, like the codes, got a tuple of 1"),
    (
        {"x": torch.rand(2, 3)},
        ZEROS,
        0.3,
        ValueError,
        "`inputs` must be a tensor, like the codes, got a dict of ['x']",
    ),
    ("x", ZEROS, 0.3, TypeError, "`inputs` must be a tensor, or a tuple or dict of tensors, got str"),
]


@pytest.mark.parametrize(("inputs", "targets", "rate", "error", "text"), REFUSED, ids=[row[-1] for row in REFUSED])
def test_refused(inputs: Any, targets: Tensor, rate: float, error: type[Exception], text: str) -> None:
    state = torch.get_rng_state()
    with pytest.raises(error) as caught:
        MnemonicCodes.generate(4, (3,)).embed(inputs, targets, rate)
    assert str(caught.value) == text
    assert torch.equal(torch.get_rng_state(), state)
