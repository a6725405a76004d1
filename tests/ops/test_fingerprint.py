"""fingerprint against its definition."""

import pytest
import torch
from asserts import assert_same_bits, assert_traceable, threads
from cases import randn

from fastforget import ops
from fastforget.ops import reference

DTYPES = (
    torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool, torch.complex64, torch.complex128,
)  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(), (0,), (1,), (7, 9), (300_001,)], ids=str)
def test_equals_reference(size: tuple[int, ...], dtype: torch.dtype) -> None:
    tensors = [(randn(*size, seed=seed) * 100).to(dtype) for seed in range(2)]
    before = [tensor.clone() for tensor in tensors]
    found = ops.fingerprint(tensors)
    assert found.shape == (2, 2)
    assert_same_bits(found, reference.fingerprint(tensors))
    with threads(2):
        assert_same_bits(ops.fingerprint(tensors), found)
    for tensor, old in zip(tensors, before, strict=True):
        assert torch.equal(tensor, old)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_one_flipped_bit_or_two_swapped_elements_change_both_sums(dtype: torch.dtype) -> None:
    tensor = randn(1000).to(dtype)
    found = ops.fingerprint([tensor])
    flipped = tensor.clone()
    flipped.view(torch.int16)[500] ^= 1
    swapped = tensor.clone()
    swapped[[3, 4]] = tensor[[4, 3]]
    for other in (flipped, swapped, tensor.flip(0)):
        assert (ops.fingerprint([other]) != found).all()
    assert_same_bits(ops.fingerprint([tensor.clone()]), found)


def test_negative_zero_is_not_zero() -> None:
    assert (ops.fingerprint([torch.zeros(3)]) != ops.fingerprint([-torch.zeros(3)])).all()


def test_opcheck_and_compile() -> None:
    assert_traceable("fingerprint", [randn(7, 9), randn(3).half()])


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="`tensors` must not be empty"):
        ops.fingerprint([])
    with pytest.raises(RuntimeError, match="`tensors` must be contiguous"):
        ops.fingerprint([randn(3, 4).t()])
