"""`fingerprint` depends on every bit, name and type of parameters and buffers, and on nothing else."""

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from asserts import threads
from cases import randn
from hypothesis import given
from hypothesis import strategies as st
from known_codes import assert_holds, convnet, copied_tensors, digits, mlp
from torch import Tensor, nn

from fastforget import fingerprint


def module_with(**tensors: Tensor) -> nn.Module:
    """Return a module with these buffers."""
    module = nn.Module()
    for name, tensor in tensors.items():
        module.register_buffer(name, tensor)
    return module


def test_known_value() -> None:
    """Machines and versions must agree, because receipts are compared by fingerprints."""
    model = nn.Linear(3, 2)
    with torch.no_grad():
        model.weight.copy_(torch.arange(6.0).view(2, 3))
        model.bias.copy_(torch.tensor([-0.0, 1e-40]))
    assert fingerprint(model) == KNOWN


def test_form_and_model_unchanged() -> None:
    model = convnet()
    before = copied_tensors(model)
    found = fingerprint(model)
    assert re.fullmatch("[0-9a-f]{32}", found)
    assert fingerprint(model) == found == fingerprint(copy.deepcopy(model))
    assert_holds(model, before)


@given(data=st.data())
def test_depends_on_every_bit(data: st.DataObject) -> None:
    model = convnet()
    before = fingerprint(model)
    tensors = copied_tensors(model)
    name = data.draw(st.sampled_from(sorted(tensors)))
    flat = dict([*model.named_parameters(), *model.named_buffers()])[name].data.view(-1).view(torch.uint8)
    byte, bit = data.draw(st.integers(0, len(flat) - 1)), data.draw(st.integers(0, 7))
    flat[byte] ^= 1 << bit
    assert fingerprint(model) != before
    flat[byte] ^= 1 << bit
    assert fingerprint(model) == before


@pytest.mark.parametrize(
    "change",
    [
        {"a": -torch.zeros(3)},
        {"a": torch.zeros(3, dtype=torch.int32)},
        {"a": torch.zeros(6, dtype=torch.bfloat16)},
        {"a": torch.zeros(3, 1)},
        {"a": torch.zeros(4)},
        {"b": torch.zeros(3)},
        {"a": torch.zeros(3), "b": torch.zeros(0)},
        {},
    ],
    ids=str,
)
def test_depends_on_type_shape_and_name(change: dict[str, Tensor]) -> None:
    assert fingerprint(module_with(**change)) != fingerprint(module_with(a=torch.zeros(3)))


def test_depends_on_the_order_of_elements_and_of_tensors() -> None:
    x, y = randn(5, seed=1), randn(5, seed=2)
    assert fingerprint(module_with(a=x, b=y)) != fingerprint(module_with(a=y, b=x))
    assert fingerprint(module_with(a=x, b=y)) != fingerprint(module_with(b=y, a=x))
    assert fingerprint(module_with(a=x)) != fingerprint(module_with(a=x.flip(0)))
    assert fingerprint(module_with(a=torch.cat([x, y]))) != fingerprint(module_with(a=torch.cat([y, x])))


@pytest.mark.parametrize("payload", [0x7FC00001, 0x7FC00002, 0x7F800001])
def test_nan_payloads_count(payload: int) -> None:
    plain = torch.tensor([0x7FC00000], dtype=torch.int32).view(torch.float32)
    other = torch.tensor([payload], dtype=torch.int32).view(torch.float32)
    assert fingerprint(module_with(a=plain)) != fingerprint(module_with(a=other))


@pytest.mark.parametrize("layout", [lambda t: t.mT.contiguous().mT, lambda t: torch.stack([t, t], -1)[..., 0]])
def test_the_layout_in_memory_does_not_count(layout: Callable[[Tensor], Tensor]) -> None:
    x = randn(4, 6)
    assert not layout(x).is_contiguous()
    assert fingerprint(module_with(a=layout(x))) == fingerprint(module_with(a=x))
    parameters = nn.ParameterDict({"a": layout(x)}), nn.ParameterDict({"a": x})
    assert fingerprint(parameters[0]) == fingerprint(parameters[1])


def test_expanded_and_channels_last() -> None:
    assert fingerprint(module_with(a=torch.ones(1, 3).expand(4, 3))) == fingerprint(module_with(a=torch.ones(4, 3)))
    model = convnet()
    before = fingerprint(model)
    assert fingerprint(model.to(memory_format=torch.channels_last)) == before


def test_mode_flags_and_gradients_do_not_count() -> None:
    model = mlp()
    before = fingerprint(model)
    model.eval().requires_grad_(False)
    model.get_parameter("0.bias").grad = torch.ones(64)
    assert fingerprint(model) == before
    with torch.inference_mode():
        assert fingerprint(model) == before


def test_same_for_any_number_of_threads() -> None:
    model = digits()[0]
    found = set()
    for count in (1, 2):
        with threads(count):
            found.add(fingerprint(model))
    assert len(found) == 1


@pytest.mark.parametrize("buffer", [torch.ones(3), torch.tensor(5), torch.ones(2, dtype=torch.bool)], ids=str)
@pytest.mark.parametrize("persistent", [True, False])
def test_buffers_count(buffer: Tensor, persistent: bool) -> None:
    model = mlp()
    before = fingerprint(model)
    model.register_buffer("extra", buffer.clone(), persistent=persistent)
    with_buffer = fingerprint(model)
    assert with_buffer != before
    model.get_buffer("extra").zero_()
    assert fingerprint(model) not in {before, with_buffer}
    model.register_buffer("extra", None)
    assert fingerprint(model) == before


def test_empty_models() -> None:
    assert fingerprint(nn.ReLU()) == fingerprint(nn.Sequential(nn.Flatten(), nn.Tanh()))
    assert re.fullmatch("[0-9a-f]{32}", fingerprint(nn.ReLU()))
    assert fingerprint(nn.ReLU()) != fingerprint(module_with(a=torch.zeros(0)))


def test_a_compiled_model() -> None:
    model = mlp()
    assert fingerprint(torch.compile(model, backend="eager")) == fingerprint(model)  # type: ignore[arg-type]


@pytest.mark.parametrize("model", [None, {"a": torch.ones(1)}, "model.pt"])
def test_not_a_module(model: Any) -> None:
    with pytest.raises(TypeError, match=r"^`model` must be a torch\.nn\.Module, got "):
        fingerprint(model)


KNOWN = "08f1c298180825513b4a4f3081a1eca3"
