"""Memory layouts, shapes and types of what packages take."""

import pytest
import torch
from asserts import assert_same_bits
from torch import Tensor

from fastforget.serving.engines.expected_inputs import ExpectedInputs, ExpectedTensor, fixed_sizes


def image(*shape: int, layout: torch.memory_format = torch.contiguous_format) -> Tensor:
    """Strides as PyTorch itself gives them, for dimensions of size 1 too."""
    made = torch.empty(shape, memory_format=layout)
    return made.copy_(torch.randn(shape, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(5, 3, 8, 8), (5, 1, 8, 8), (1, 3, 8, 8), (1, 1, 8, 8), (5, 3, 1, 8), (5, 3, 8, 1)])
@pytest.mark.parametrize("batch", [1, 2, 7])
def test_the_layout_of_the_example(layout: torch.memory_format, shape: tuple[int, ...], batch: int) -> None:
    expected_tensor = ExpectedTensor.like(image(*shape, layout=layout), {})
    expected = image(batch, *shape[1:], layout=layout)
    assert expected_tensor.lay_out(expected, "input 0") is expected
    others = [torch.contiguous_format, torch.channels_last]
    for given in (*(image(*expected.shape, layout=other) for other in others), expected.mT.contiguous().mT):
        found = expected_tensor.lay_out(given, "input 0")
        assert found.stride() == expected.stride()
        assert_same_bits(found.contiguous(), given.contiguous())


def test_other_tensors() -> None:
    for example in (torch.tensor(2.0), torch.arange(3), torch.empty(0, 3), torch.rand(2, 3, 4).transpose(0, 2)):
        assert ExpectedTensor.like(example, {}).lay_out(example, "input 0") is example
    expected_tensor = ExpectedTensor.like(torch.rand(2, 3), {1: 3})
    row = torch.rand(3)
    assert_same_bits(expected_tensor.lay_out(row.expand(4, 3), "input 0"), row.repeat(4, 1))
    watched = torch.rand(3, 2, requires_grad=True).mT
    assert not expected_tensor.lay_out(
        torch.cat([watched, watched, watched])[:2, :3].repeat(1, 2)[:, :3], "input 0"
    ).requires_grad


def test_faults() -> None:
    expected_tensor = ExpectedTensor.like(torch.rand(2, 3), {1: 3})
    for wrong in (torch.rand(2, 4), torch.rand(3), torch.rand(2, 3, 1)):
        with pytest.raises(ValueError, match=r"^input 0 must have shape \(any, 3\), got \("):
            expected_tensor.lay_out(wrong, "input 0")
    for value, found in ((torch.ones(2, 3, dtype=torch.int64), "torch.int64"), ([[1.0] * 3], "list")):
        with pytest.raises(TypeError, match=rf"^input 0 must be a tensor of torch.float32, got {found}$"):
            expected_tensor.lay_out(value, "input 0")
    with pytest.raises(ValueError, match=r"^input 0 must be on cpu, got meta$"):
        expected_tensor.lay_out(torch.rand(2, 3, device="meta"), "input 0")


def test_nested_inputs() -> None:
    """Tensors are numbered as the package has them; what is no tensor is part of the package."""
    example = {"scale": 2, "pair": [torch.rand(2, 3), torch.rand(2, 4)], "image": torch.rand(2, 5)}
    inputs = ExpectedInputs(example, ["image", "scale", "pair"], {0: {1: 5}, 2: {1: 4}})
    args, found = inputs.lay_out((), {**example, "image": torch.rand(5, 7).mT[:7]})
    assert args == ()
    assert list(found) == ["image", "scale", "pair"]
    assert found["image"].is_contiguous()
    assert found["pair"][1] is example["pair"][1]
    with pytest.raises(ValueError, match=r"^input 3 must have shape \(any, 4\), got \(2, 3\)$"):
        inputs.lay_out((), {**example, "pair": [torch.rand(2, 3)] * 2})
    with pytest.raises(ValueError, match=r"^input 1 must be 2, which is part of the package, got 3$"):
        inputs.lay_out((), {**example, "scale": 3})
    with pytest.raises(ValueError, match=r"^inputs must be built like `example`, got 0 in order and \['scale', 'pair'"):
        inputs.lay_out((), {**example, "pair": [torch.rand(2, 3)]})
    with pytest.raises(ValueError, match=r"^inputs by name must be \['image', 'scale', 'pair'\], got \['image'\]$"):
        inputs.lay_out((), {"image": example["image"]})


def test_fixed_sizes() -> None:
    line = 'ss << "input_handles[{}]: unmatched dim value at {}, "\n   << "expected: {}, " << "but got: "'
    found = fixed_sizes("\n".join([line.format(0, 1, 3), line.format(0, 2, 224), line.format(11, 0, 5)]))
    assert found == {0: {1: 3, 2: 224}, 11: {0: 5}}
    assert fixed_sizes("") == {}
