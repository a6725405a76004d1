"""Receipts: every bit back, and the same edit on a copy."""

import copy
from typing import Any

import pytest
import torch
from asserts import assert_same_bits
from edits.edited_models import RULES, edited
from known_codes import assert_holds, convnet, copied_tensors, mlp, model_with_codes, refused

from fastforget import fingerprint, one_shot


@pytest.mark.parametrize("rule", RULES)
def test_revert_restores_every_bit(rule: Any) -> None:
    """Zeros keep their sign, and a NaN that no code reaches keeps its payload."""
    model, codes = model_with_codes()
    model.register_buffer(
        "spare", torch.tensor([0x7FC12345, 0x7F812345, -0x80000000], dtype=torch.int32).view(torch.float32)
    )
    model.get_parameter("0.bias").data[:8] = -0.0
    before = copied_tensors(model)
    receipt = one_shot(model, codes, 1, rule=rule, rho=0.5)
    assert fingerprint(model) == receipt.after != receipt.before
    assert_same_bits(model.get_buffer("spare"), before["spare"])
    receipt.revert(model)
    assert_holds(model, before)
    assert fingerprint(model) == receipt.before


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("undo", [True, False])
def test_apply_to_copies(rule: Any, undo: bool) -> None:
    original, model, receipt = edited(rule, undo=undo)
    loaded = mlp().eval()
    loaded.load_state_dict(original.state_dict())
    for other in (copy.deepcopy(original), loaded, copy.deepcopy(original).train()):
        receipt.apply(other)
        assert_holds(other, copied_tensors(model))


def test_apply_and_revert_in_turn_on_a_compiled_model() -> None:
    original, model, receipt = edited()
    compiled = torch.compile(model, backend="eager")
    storage = [parameter.data_ptr() for parameter in model.parameters()]
    for _ in range(2):
        receipt.revert(compiled)  # type: ignore[arg-type]
        assert_holds(model, copied_tensors(original))
        receipt.apply(compiled)  # type: ignore[arg-type]
        assert fingerprint(model) == receipt.after
    assert storage == [parameter.data_ptr() for parameter in model.parameters()]


@pytest.mark.parametrize("rule", RULES)
def test_channels_last_and_back(rule: Any) -> None:
    model, codes = model_with_codes(convnet)
    model.to(memory_format=torch.channels_last)
    plain, before = model_with_codes(convnet)[0], copied_tensors(model)
    receipt = one_shot(model, codes, 1, rule=rule, rho=0.3)
    receipt.apply(plain)  # the layout in memory is no part of the values
    assert_holds(plain, copied_tensors(model))
    receipt.revert(model)
    assert_holds(model, before)


def test_twice_is_refused() -> None:
    original, model, receipt = edited()
    with refused(
        model, ValueError, f"`model` must be the one this edit was made on: .* must be {receipt.before}, got "
    ):
        receipt.apply(model)
    receipt.revert(model)
    with refused(model, ValueError, "`model` must be as this edit left it: .*; nothing was changed$"):
        receipt.revert(model)
    with refused(original, ValueError, "`model` must be as this edit left it"):
        receipt.revert(original)


def test_another_model_is_refused() -> None:
    original, model, receipt = edited()
    with torch.no_grad():
        original.get_parameter("2.bias")[3] += 1e-6
        model.get_parameter("2.bias")[3] += 1e-6
    with refused(original, ValueError, "the one this edit was made on"):
        receipt.apply(original)
    with refused(model, ValueError, "as this edit left it"):
        receipt.revert(model)
    other = convnet()
    with refused(other, ValueError, "the one this edit was made on"):
        receipt.apply(other)


def test_without_undo() -> None:
    original, model, receipt = edited(undo=False)
    assert not receipt.reversible
    with refused(model, ValueError, "must hold the old values to be reverted; it was made with undo=False"):
        receipt.revert(model)
    receipt.apply(original)
    assert_holds(original, copied_tensors(model))
    _, _, full = edited()
    assert full.reversible
    assert not full.without_undo().reversible
    assert full.reversible
