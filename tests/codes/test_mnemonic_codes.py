"""Mnemonic codes: drawing them, taking given ones, reading them out, and every refusal."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fastforget.classifier.inputs import leaves
from fastforget.codes.mnemonic_codes import MnemonicCodes

shapes = st.lists(st.integers(1, 6), max_size=3).map(tuple)
distributions = st.sampled_from(["normal", "uniform", "blocks"])


@given(
    classes=st.integers(1, 4),
    per_class=st.integers(1, 3),
    shape=shapes,
    distribution=distributions,
    seed=st.integers(0, 2**64 - 1),
)
def test_generate(classes: int, per_class: int, shape: tuple[int, ...], distribution: Any, seed: int) -> None:
    codes = MnemonicCodes.generate(classes, shape, distribution=distribution, per_class=per_class, seed=seed)
    assert codes.tensor.shape == (classes, per_class, *shape)
    assert codes.tensor.dtype == torch.float32
    assert codes.tensor.isfinite().all()
    assert (len(codes), codes.per_class) == (classes, per_class)
    assert (codes.distribution, codes.seed) == (distribution, seed)

    again = MnemonicCodes.generate(classes, shape, distribution=distribution, per_class=per_class, seed=seed)
    assert torch.equal(codes.tensor, again.tensor)
    larger = MnemonicCodes.generate(classes + 2, shape, distribution=distribution, per_class=per_class + 1, seed=seed)
    assert torch.equal(codes.tensor, larger.tensor[:classes, :per_class])


def test_generate_tokens(tmp_path: Path) -> None:
    make = partial(MnemonicCodes.generate, distribution="tokens", vocabulary=range(2, 40), seed=3)
    codes = make(3, (16,), per_class=2)
    assert (codes.tensor.dtype, codes.tensor.shape) == (torch.int64, (3, 2, 16))
    assert codes.tensor.min() >= 2
    assert codes.tensor.max() < 40
    assert torch.equal(codes.tensor, make(4, (16,), per_class=3).tensor[:3, :2])
    codes.save(tmp_path / "codes")
    again = MnemonicCodes.load(tmp_path / "codes")
    assert torch.equal(codes.tensor, again.tensor)
    assert (again.distribution, again.seed) == ("tokens", 3)


def test_generate_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    MnemonicCodes.generate(3, (4,))
    assert torch.equal(torch.get_rng_state(), before)


def test_classes_seeds_and_codes_of_a_class_all_differ() -> None:
    both = [MnemonicCodes.generate(3, (8,), per_class=2, seed=seed).inputs for seed in (0, 1)]
    rows = torch.cat([tensor for tensor in both if isinstance(tensor, Tensor)])
    assert len(rows.unique(dim=0)) == 12


@pytest.mark.parametrize(
    ("shape", "kind", "expected"),
    [
        ([2, 3], Tensor, [(2, 3)]),
        (torch.Size([2, 3]), Tensor, [(2, 3)]),
        ((), Tensor, [()]),
        (((2, 3), (4,)), tuple, [(2, 3), (4,)]),
        ([[2, 3], []], tuple, [(2, 3), ()]),
        ({"image": (2, 3), "text": (4,)}, dict, [(2, 3), (4,)]),
    ],
)
def test_generate_any_structure(shape: Any, kind: type, expected: list[tuple[int, ...]]) -> None:
    codes = MnemonicCodes.generate(2, shape, per_class=3)
    assert isinstance(codes.stacked, kind)
    assert [leaf.shape for leaf in leaves(codes.stacked)] == [(2, 3, *part) for part in expected]
    assert [leaf.shape for leaf in leaves(codes.inputs)] == [(6, *part) for part in expected]


def test_inputs_and_labels_go_together() -> None:
    codes = MnemonicCodes.generate(3, {"a": (4,), "b": ()}, per_class=2)
    inputs = codes.inputs
    assert isinstance(inputs, dict)
    assert isinstance(codes.stacked, dict)
    assert codes.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert codes.labels.dtype == torch.int64
    for name, leaf in inputs.items():
        for row, label in enumerate(codes.labels):
            assert torch.equal(leaf[row], codes.stacked[name][label, row % 2])


def test_for_classes_keeps_the_order_asked_for() -> None:
    codes = MnemonicCodes.generate(4, (5,), per_class=2)
    inputs, labels = codes.for_classes([3, 1])
    assert labels.tolist() == [3, 3, 1, 1]
    assert isinstance(inputs, Tensor)
    assert torch.equal(inputs, codes.tensor[[3, 1]].flatten(0, 1))


def test_from_tensors_copies() -> None:
    images = torch.rand(3, 2, 4, requires_grad=True)
    codes = MnemonicCodes.from_tensors((images, torch.arange(6).view(3, 2)))
    kept = images.detach().clone()
    with torch.no_grad():
        images.zero_()
    assert isinstance(codes.stacked, tuple)
    assert torch.equal(codes.stacked[0], kept)
    assert not codes.stacked[0].requires_grad
    assert codes.stacked[1].dtype == torch.int64
    assert (codes.distribution, codes.seed) == ("custom", None)


def test_to_converts_the_real_valued_leaves_only() -> None:
    codes = MnemonicCodes.from_tensors({"x": torch.rand(2, 1, 3), "ids": torch.arange(2).view(2, 1)})
    half = codes.to(torch.bfloat16)
    assert [leaf.dtype for leaf in leaves(half.stacked)] == [torch.bfloat16, torch.int64]
    assert [leaf.dtype for leaf in leaves(codes.stacked)] == [torch.float32, torch.int64]


def test_to_moves_to_a_device() -> None:
    codes = MnemonicCodes.generate(2, (3,), seed=5)
    moved = codes.to("cpu")
    assert torch.equal(moved.tensor, codes.tensor)
    assert (moved.distribution, moved.seed) == ("normal", 5)


def test_repr() -> None:
    assert repr(MnemonicCodes.generate(10, (1, 8, 8), seed=3)) == (
        "MnemonicCodes(classes=10, per_class=4, shape=(1, 8, 8), distribution='normal', seed=3)"
    )
    assert repr(MnemonicCodes.from_tensors({"x": torch.rand(2, 3, 4), "y": torch.rand(2, 3)})) == (
        "MnemonicCodes(classes=2, per_class=3, shape={'x': (4,), 'y': ()}, distribution='custom', seed=None)"
    )


def generate(*args: Any, **settings: Any) -> Callable[[], object]:
    return lambda: MnemonicCodes.generate(*args, **settings)


def given_tensors(stacked: Any) -> Callable[[], object]:
    return lambda: MnemonicCodes.from_tensors(stacked)


def classes_of_three(*classes: Any) -> Callable[[], object]:
    return lambda: MnemonicCodes.generate(3, (2,)).for_classes(classes)


NOT_A_SHAPE = "`shape` must be a shape, or a sequence or mapping of shapes, got "
REFUSED: list[tuple[Callable[[], object], type[Exception], str]] = [
    (generate(0, (2,)), ValueError, "`num_classes` must be in [1, 4294967296), got 0"),
    (generate(2.0, (2,)), TypeError, "`num_classes` must be an integer, got 2.0"),
    (generate(2, (2,), per_class=0), ValueError, "`per_class` must be in [1, 4294967296), got 0"),
    (generate(2, (2,), seed=-1), ValueError, "`seed` must be in [0, 18446744073709551616), got -1"),
    (generate(2, (2,), seed=2**64), ValueError, f"`seed` must be in [0, {2**64}), got {2**64}"),
    (
        generate(2, (2,), distribution="gamma"),
        ValueError,
        "`distribution` must be one of ['normal', 'uniform', 'blocks', 'tokens'], got 'gamma'",
    ),
    (
        generate(2, (2,), distribution="tokens"),
        TypeError,
        '"tokens" must come with a range of them, `vocabulary`, got None',
    ),
    (
        generate(2, (2,), distribution="tokens", vocabulary=range(3, 3)),
        ValueError,
        "`vocabulary` must hold numbers in [0, 2147483648), got range(3, 3)",
    ),
    (
        generate(2, (2,), distribution="tokens", vocabulary=range(-1, 3)),
        ValueError,
        "`vocabulary` must hold numbers in [0, 2147483648), got range(-1, 3)",
    ),
    (
        generate(2, (2,), distribution="tokens", vocabulary=range(2**31 + 1)),
        ValueError,
        "`vocabulary` must hold numbers in [0, 2147483648), got range(0, 2147483649)",
    ),
    (
        generate(2, (2,), distribution="tokens", vocabulary=range(2**70)),
        ValueError,
        f"`vocabulary` must hold numbers in [0, 2147483648), got range(0, {2**70})",
    ),
    (
        generate(2, (2,), vocabulary=range(5)),
        ValueError,
        '`vocabulary` must be left out with "normal": it is what "tokens" are drawn from',
    ),
    (generate(2, 8), TypeError, NOT_A_SHAPE + "8"),
    (generate(2, {"x": 8}), TypeError, NOT_A_SHAPE + "{'x': 8}"),
    (generate(2, [(2,), 3]), TypeError, NOT_A_SHAPE + "[(2,), 3]"),
    (generate(2, (2, 0)), ValueError, f"`shape` must be in [1, {2**63}), got 0"),
    (generate(2, (2.5,)), TypeError, "`shape` must be an integer, got 2.5"),
    (generate(2, {}), ValueError, "`shape` must hold at least one shape, got an empty mapping"),
    (given_tensors(3), TypeError, "`inputs` must be a tensor, or a tuple or dict of tensors, got int"),
    (given_tensors(()), ValueError, "`inputs` must hold at least one tensor, got an empty tuple"),
    (given_tensors(torch.rand(3)), ValueError, "codes must be [C, M, *shape] and not empty, got shape (3,)"),
    (given_tensors(torch.rand(3, 0)), ValueError, "codes must be [C, M, *shape] and not empty, got shape (3, 0)"),
    (
        given_tensors((torch.rand(3, 1), torch.rand(3, 2))),
        ValueError,
        "codes must have the same C and M for every input, got shapes (3, 1) and (3, 2)",
    ),
    (
        given_tensors((torch.rand(3, 1), torch.rand(3, 1, device="meta"))),
        ValueError,
        "codes must be on one device, got cpu and meta",
    ),
    (given_tensors(torch.tensor([[1.0, torch.nan]])), ValueError, "codes must be finite, got NaN or infinity"),
    (given_tensors(torch.tensor([[1.0, -torch.inf]])), ValueError, "codes must be finite, got NaN or infinity"),
    (given_tensors(torch.tensor([[1j]])), TypeError, "codes must be real and not quantised, got torch.complex64"),
    (classes_of_three(), ValueError, "`classes` must name at least one class, got none"),
    (classes_of_three(0, 3), ValueError, "`classes` must be in [0, 3), got 3"),
    (classes_of_three(-1), ValueError, "`classes` must be in [0, 3), got -1"),
    (classes_of_three("a"), TypeError, "`classes` must be an integer, got 'a'"),
    (classes_of_three(1, 2, 1), ValueError, "`classes` must not repeat a class, got [1, 2, 1]"),
    (
        lambda: MnemonicCodes.generate(2, (3,)).to(torch.int32),
        TypeError,
        "`target` must be a device or a floating-point type, got torch.int32",
    ),
    (
        lambda: MnemonicCodes.from_tensors(torch.full((2, 1), 1e6)).to(torch.float16),
        ValueError,
        "codes must be finite, got NaN or infinity",
    ),
    (
        lambda: MnemonicCodes.generate(2, [(3,), (4,)]).tensor,
        TypeError,
        "`tensor` needs codes that are one tensor, got a tuple of 2: use `stacked`",
    ),
]


@pytest.mark.parametrize(("call", "error", "text"), REFUSED, ids=[text for _, _, text in REFUSED])
def test_refused(call: Callable[[], object], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == text


def test_fingerprint(tmp_path: Path) -> None:
    """It depends on every bit, shape, dtype and name, but not on how the codes came to be."""
    given = MnemonicCodes.generate(3, (4,), per_class=2)
    found = given.fingerprint()
    given.save(tmp_path / "codes.safetensors")
    view = torch.stack([given.tensor, given.tensor], -1)[..., 0]
    for same in (
        MnemonicCodes.generate(3, (4,), per_class=2),
        MnemonicCodes.from_tensors(given.tensor),
        MnemonicCodes(view),
        MnemonicCodes.load(tmp_path / "codes.safetensors"),
    ):
        assert same.fingerprint() == found
    one_bit = given.tensor.clone()
    one_bit.view(torch.int32)[2, 1, 3] ^= 1
    others = [
        MnemonicCodes(one_bit),
        MnemonicCodes(given.tensor.flip(0)),
        MnemonicCodes(given.tensor.view(3, 2, 2, 2)),
        MnemonicCodes(given.tensor.view(2, 3, 4)),
        given.to(torch.float64),
        MnemonicCodes((given.tensor, given.tensor)),
        MnemonicCodes({"x": given.tensor}),
        MnemonicCodes({"y": given.tensor}),
    ]
    assert len({found, *(each.fingerprint() for each in others)}) == 1 + len(others)
